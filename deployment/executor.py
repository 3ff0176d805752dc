"""A lab's executor that imports torch and Flower once and forks for each message.

Flower starts a new Python for every message to a lab; most of what a question costs is imports.
``fedsc-executor`` takes the arguments of ``flower-superexec`` and becomes it, after it has started
a process that holds what every message imports. Of Flower nothing is changed: its executor finds
``deployment/bin/flwr-clientapp`` first on its ``PATH``, which hands its arguments to that process,
and a fork of it runs Flower's own command ``flwr-clientapp``. If nobody answers, that command is
started as ever.

What is held has one thread, no connection and no secret, and nothing of the app: each message
imports the app that came with its run.
"""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

SOCKET = "FEDSC_EXECUTOR"
"""Environment variable with the path of the socket to which arguments are handed."""

_BIN = Path(__file__).parent / "bin"
_COMMAND = "flwr-clientapp"
# What messages import: Flower's client, training, sums over cells, files of cells.
_HELD = (
    *("flwr.clientapp", "flwr.supernode.cli.flwr_clientapp"),
    *("torch", "safetensors.numpy", "pydantic", "threadpoolctl"),
    *("scipy.sparse", "scipy.special", "pandas", "anndata"),
)
_MOST_BYTES = 2**16  # of arguments


def main() -> None:
    """Start what is held, then become ``flower-superexec`` with this program's arguments."""
    folder = Path(tempfile.mkdtemp(prefix="fedsc-executor-"))  # for this user alone
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.listen(64)
    executor = os.getpid()
    if os.fork() == 0:
        _serve(listening, executor, folder)
    os.environ[SOCKET] = str(folder / "socket")
    os.environ["PATH"] = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
    os.execvp("flower-superexec", ["flower-superexec", *sys.argv[1:]])  # noqa: S606


def _serve(listening: socket.socket, executor: int, folder: Path) -> NoReturn:
    """Fork for every message, for as long as the executor lives."""
    for name in _HELD:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks leave nothing behind
    listening.settimeout(1.0)
    while os.getppid() == executor:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(10.0)
            try:
                arguments = _read(connection)
            except (OSError, ValueError):
                continue  # who asked starts the command itself
            if os.fork() == 0:
                listening.close()
                connection.close()
                _run(arguments)
            with suppress(OSError):  # who asked is gone: the fork has its message all the same
                connection.sendall(b".")
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _read(connection: socket.socket) -> list[str]:
    """Read what follows the command's name, a list in JSON up to the end of the stream."""
    data = b""
    while part := connection.recv(_MOST_BYTES):
        data += part
        if len(data) > _MOST_BYTES:
            raise ValueError("too many arguments")
    return [str(argument) for argument in json.loads(data)]


def _run(arguments: list[str]) -> NoReturn:
    """Run Flower's own command in this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name in [name for name in sys.modules if name.partition(".")[0] == "deployment"]:
        del sys.modules[name]  # the app of the run brings its own
    sys.argv = [_COMMAND, *arguments]
    (command,) = entry_points(group="console_scripts", name=_COMMAND)
    sys.exit(command.load()())
