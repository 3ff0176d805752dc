"""What is of no one command."""

import fedsc as package


def test_the_version_is_told(fedsc):
    assert fedsc("--version") == (0, f"{package.__version__}\n", "")


def test_a_command_that_is_none_is_answered_with_one_that_is(fedsc):
    code, _, err = fedsc("optons")
    assert code == 2
    assert err.count("'options'") == 1
