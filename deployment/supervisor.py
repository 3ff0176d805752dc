"""Keep processes running: start them, restart those that die, stop them all."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fedsc.errors import ConfigError


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits, in seconds.

    Attributes
    ----------
    first, longest
        Before a restart: the first time, and at most; each failure in a row doubles it.
    steady
        A process that lived so long failed for a new reason: its failures start over.
    stop
        For processes that were told to stop, before they are killed.
    """

    first: float = 1.0
    longest: float = 30.0
    steady: float = 60.0
    stop: float = 15.0

    def failures(self, before: int, lived: float) -> int:
        """Count the failures in a row after one more."""
        return 1 if lived > self.steady else before + 1

    def delay(self, failures: int) -> float:
        """Give the time before the restart after so many failures in a row."""
        doublings = min(failures - 1, 64)  # a float ends at 2 to the 1024th
        return min(self.first * 2.0**doublings, self.longest)


@dataclass(frozen=True)
class Program:
    """A process to keep running.

    Attributes
    ----------
    name
        Unique; also the name of its log.
    command
        Its command line.
    environment
        The whole of its environment.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(repr=False)


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0  # in a row
    due: float = 0.0


class Supervisor:
    """Processes by name, each restarted with growing delay when it ends.

    Parameters
    ----------
    logs
        Folder for ``NAME.log``, appended to.
    patience
        How long it waits.
    """

    def __init__(self, logs: Path, patience: Patience = Patience()) -> None:
        self._logs = logs
        self._patience = patience
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        logs.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def start(self, programs: Iterable[Program]) -> None:
        """Start programs and keep them running.

        Raises
        ------
        ConfigError
            If a name is taken or cannot be a file's.
        """
        for program in programs:
            with self._lock:
                name = program.name
                if name in self._running or not name or Path(name).name != name:
                    raise ConfigError(f"process name {name!r} is taken or no name of a file")
                running = self._running[name] = _Running(program)
                self._launch(running)

    def pid(self, name: str) -> int | None:
        """Give the process id of a program; ``None`` while it is down."""
        with self._lock:
            process = self._running[name].process
            return process.pid if process is not None and process.poll() is None else None

    def states(self) -> dict[str, str]:
        """Describe every process in words, by name."""
        with self._lock:
            return {name: _state(running) for name, running in self._running.items()}

    def stop(self) -> None:
        """Stop all processes and what they started; those that do not go in time are killed."""
        self._stopping.set()
        self._thread.join()
        # Last started, first stopped: nobody talks to a server that has gone.
        processes = [r.process for r in reversed(self._running.values()) if r.process is not None]
        for process in processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + self._patience.stop
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            # Also when it has gone: what it started may still be there.
            _signal(process, signal.SIGKILL)
            process.wait()

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            with self._lock:
                for running in self._running.values():
                    self._revive(running)

    def _revive(self, running: _Running) -> None:
        now = time.monotonic()
        if running.process is not None:
            if running.process.poll() is None:
                return
            _signal(running.process, signal.SIGKILL)
            running.process = None
            self._failed(running, now - running.started)
        elif now >= running.due:
            running.restarts += 1
            try:
                self._launch(running)
            except OSError as error:  # memory or a disk may be short for a while
                with suppress(OSError), self._log(running) as log:
                    log.write(f"fedsc: cannot be started again: {error}\n".encode())
                self._failed(running, lived=0.0)

    def _failed(self, running: _Running, lived: float) -> None:
        running.failures = self._patience.failures(running.failures, lived)
        running.due = time.monotonic() + self._patience.delay(running.failures)

    def _log(self, running: _Running) -> IO[bytes]:
        return (self._logs / f"{running.program.name}.log").open("ab")

    def _launch(self, running: _Running) -> None:
        with self._log(running) as log:
            running.process = subprocess.Popen(
                running.program.command,
                env=dict(running.program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        running.started = time.monotonic()


@contextmanager
def supervised(logs: Path, patience: Patience = Patience()) -> Iterator[Supervisor]:
    """Give a supervisor whose processes end with the block, however it ends."""
    supervisor = Supervisor(logs, patience)
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _state(running: _Running) -> str:
    times = f" (restarts: {running.restarts})" if running.restarts else ""
    if running.process is not None and running.process.poll() is None:
        return f"running{times}"
    return f"down, starts again soon{times}"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process and to what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
