"""What a command and an in-process run may import: every import is time before the first round."""

import subprocess
import sys

import pytest


def _imported(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_imports_no_science():
    found = _imported(
        """
import sys
from typer.testing import CliRunner
from fedsc import cli
assert CliRunner().invoke(cli.app, ["--help"]).exit_code == 0
print(*sys.modules)
"""
    )
    assert "fedsc.cli.run" in found
    assert not {"torch", "pandas", "scipy", "h5py", "anndata", "sklearn", "flwr", "ray"} & found


@pytest.mark.slow
def test_the_in_process_engine_imports_no_superlink_and_no_ray():
    found = _imported(
        """
import sys
from fedsc.cli import run
import simulations.inprocess
import client_app, server_app
print(*sys.modules)
"""
    )
    assert {"server_app.main", "client_app.main"} <= found
    heavy = {"flwr.superlink.grid", "ray", "anndata", "scanpy", "sklearn", "matplotlib", "umap"}
    assert not heavy & found
    assert not {"sqlalchemy", "fastapi"} & found
