"""Processes of one machine among which the work of a round is shared.

Each is a fork of this process, so it has what this one has read and prepared, in the same memory.
Whoever is free takes the next piece; what comes back is in the order of what was asked, so the
result does not depend on who was first.
"""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from fedsc.errors import RunError

Task = TypeVar("Task")
Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds a process that is told to end gets for it


@dataclass(frozen=True)
class Failed:
    """The work on a task raised an exception.

    Attributes
    ----------
    traceback
        Its text.
    """

    traceback: str


def can_fork() -> bool:
    """Say whether this machine's processes can be forked safely: on Linux they can."""
    return sys.platform == "linux"


class Pool(Generic[Task, Result]):
    """Some forked processes that do one kind of work.

    Parameters
    ----------
    work
        What is done with a task; a task and its result are pickled on their way.
    processes
        How many, at least one.
    """

    def __init__(self, work: Callable[[Task], Result], processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._processes: dict[Connection, BaseProcess] = {}
        for _ in range(processes):
            ours, theirs = context.Pipe()
            # A child has a copy of our ends, its own too. It closes them: where we die, and only
            # then, nobody has them any more, and it ends.
            known = [*self._processes, ours]
            process = context.Process(target=_serve, args=(work, theirs, known), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def map(self, tasks: Sequence[Task]) -> list[Result | Failed]:
        """Do tasks, the first ones first, and give the results in their order.

        Raises
        ------
        RunError
            If a process was ended from outside.
        """
        results: dict[int, Result | Failed] = {}
        waiting, busy = list(enumerate(tasks)), dict[Connection, int]()
        free = list(self._processes)
        while waiting or busy:
            while waiting and free:
                number, task = waiting.pop(0)
                connection = free.pop()
                busy[connection] = number
                try:
                    connection.send(task)
                except OSError:
                    raise self._lost(connection) from None
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    results[busy.pop(ready)] = ready.recv()
                except (EOFError, OSError):
                    raise self._lost(ready) from None
                free.append(ready)
        return [results[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End the processes, also those that are at work."""
        for connection, process in self._processes.items():
            process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()

    def _lost(self, connection: Connection) -> RunError:
        process = self._processes[connection]
        process.join(_PATIENCE)
        return RunError(
            f"a process that trained labs ended with exit code {process.exitcode} "
            "(-9: killed, out of memory?); resume the run, if need be with fewer --processes"
        )


def _serve(
    work: Callable[[Task], Result], connection: Connection, ours: Sequence[Connection]
) -> None:
    """Do tasks until nobody asks any more; Ctrl-C is the business of the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in ours:
        end.close()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result: Result | Failed = work(task)
        except Exception:
            result = Failed(traceback.format_exc())
        try:
            connection.send(result)
        except OSError:  # nobody waits for it
            return
