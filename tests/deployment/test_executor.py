"""The executor beside a stand-in of flower-superexec that starts Flower's real command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """#!/bin/sh
# As Flower's executor: the command is found on the PATH, started, and its end not waited for.
echo "executor $$ $*"
flwr-clientapp --help
echo "socket $FEDSC_EXECUTOR"
{then}
"""


MAIN = "from deployment.executor import main; main()"  # what fedsc-executor is


@pytest.fixture
def start(tmp_path):
    """Start ``fedsc-executor`` with a stand-in for ``flower-superexec`` first on the PATH."""

    def start(then="sleep 3"):
        command = tmp_path / "flower-superexec"
        command.write_text(STAND_IN.format(then=then))
        command.chmod(0o755)
        path = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
        return subprocess.run(
            [sys.executable, "-c", MAIN, "--runtime-api-address", "127.0.0.1:1"],
            env=os.environ | {"PATH": os.pathsep.join(path), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )

    return start


@pytest.mark.slow
def test_a_message_runs_flowers_own_command_in_a_fork(start, tmp_path, until):
    said = start().stdout
    assert "--runtime-api-address 127.0.0.1:1" in said.splitlines()[0]
    assert "usage: flwr-clientapp" in said
    assert "no process holds the imports" not in said
    # It ends with the executor, which has taken the place of the program that was started.
    until(lambda: not list(tmp_path.glob("fedsc-executor-*")))


@pytest.mark.slow
def test_without_the_process_that_holds_imports_flower_starts_its_own(start):
    # The socket is gone before the next message.
    said = start('rm "$FEDSC_EXECUTOR"; flwr-clientapp --help').stdout
    assert said.count("usage: flwr-clientapp") == 2
    assert said.count("no process holds the imports") == 1


@pytest.mark.slow
def test_what_is_held_is_nothing_of_the_app_and_one_thread():
    script = """
import sys, threading
from importlib import import_module
from deployment import executor
for name in executor._HELD:
    import_module(name)
rooms = ("fedsc", "protocol", "client_app", "server_app", "partitioning", "simulations")
print([name for name in rooms if name in sys.modules], threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] 1\n"
