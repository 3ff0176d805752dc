"""Which versions a result was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

import fedsc


def versions(*packages: str) -> dict[str, str]:
    """Give the versions of FedSC, Python and some packages; of one that is missing, ``""``."""
    found = {"fedsc": fedsc.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            found[package.replace("-", "_")] = ""
    return found
