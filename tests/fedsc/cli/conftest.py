import sys

import pytest

from fedsc import cli


@pytest.fixture
def fedsc(monkeypatch, capsys):
    """Call the command line; give exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call
