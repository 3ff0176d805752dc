"""Show how long work goes on: the one progress bar of all commands, and a run's, from its files.

A bar is drawn on a terminal alone. A file gets lines, each once and as it is.
"""

import os
import threading
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from fedsc.run_files import LOG_WORDS, METRICS
from fedsc.run_log import read_metrics

_EVERY = 0.5  # seconds
# Two lines for each lab, of which the end says the sum; they stay in run.log.
_OF_EVERY_LAB = (": results are in ", " has its results in a copy of its own file: ")


class Bars:
    """Progress bars with a line of words each, shown from the first word on.

    Parameters
    ----------
    console
        Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, done: float, total: int, words: str = "") -> None:
        """Show a bar under a name; a new name is a new bar."""
        if name not in self._tasks:
            self._progress.start()
            self._tasks[name] = self._progress.add_task(name, total=total, words="")
        self._progress.update(self._tasks[name], completed=done, words=words)

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class RunProgress:
    """Follow a run while the ``with`` block lasts.

    Parameters
    ----------
    folder
        The run folder; it may not exist yet.
    rounds
        Rounds in all.
    console
        Where to draw.
    """

    def __init__(self, folder: Path, rounds: int, console: Console) -> None:
        self._metrics = _Tail(folder / METRICS)
        self._log = _Tail(folder / LOG_WORDS)
        self._bars = Bars(console)
        self._plain = not console.is_terminal
        self._rounds = rounds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "RunProgress":
        self._bars.show("round", 0, self._rounds, "starting …")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._bars.__exit__(kind, error, trace)

    def _follow(self) -> None:
        while not self._done.wait(_EVERY):
            self.show()
        self.show()

    def show(self) -> None:
        """Show what the files have got since the last look."""
        for line in self._log.lines():
            said = ": loss " in line and not self._plain  # by the bar
            if not said and not any(words in line for words in _OF_EVERY_LAB):
                self._bars.print(line)
        rows = list(read_metrics(self._metrics.lines()))
        if not rows:
            return
        last = [row for row in rows if row["round"] == rows[-1]["round"]]
        self._bars.show("round", rows[-1]["round"], self._rounds, _figures(last))


def _figures(rows: list[dict[str, float]]) -> str:
    """Say in a few words how a round went."""
    trained = [row for row in rows if "loss" in row]
    failed = len(rows) - len(trained)
    words = []
    if trained:
        cells = sum(row["cells"] for row in trained)
        loss = sum(row["loss"] * row["cells"] for row in trained) / cells
        words.append(f"loss {loss:.3f}")
        moved = [row for row in trained if row["d"] is not None]
        if moved:
            words.append(f"d {max(row['d'] for row in moved):.2f}")
            words.append(f"μ ≥ {min(row['mu'] for row in moved):.2f}")
    if failed:
        words.append(f"{failed} of {len(rows)} labs failed")
    return "  ".join(words)


class _Tail:
    """Read a growing file, whole lines at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # What an earlier part of a resumed run wrote is not news.
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            # A resumed run drops the rounds it will do again: what is left is not news either.
            self._at = min(self._at, os.fstat(file.fileno()).st_size)
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.decode().splitlines()
