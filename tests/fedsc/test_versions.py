from importlib.metadata import version

import fedsc
from fedsc.versions import versions


def test_versions_are_the_installed_ones_and_empty_where_there_is_none():
    found = versions("numpy", "scikit-learn", "no-such-package")
    assert found["fedsc"] == fedsc.__version__
    assert found["scikit_learn"] == version("scikit-learn")
    assert found["no_such_package"] == ""
