"""Show a run as it goes on, from the two files it writes; the same for every engine."""

import json
import threading
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY = 0.5  # seconds


class RunProgress:
    """A progress bar over the rounds, with the log's lines above it.

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
        self._metrics = _Tail(folder / "metrics.jsonl")
        self._log = _Tail(folder / "run.log")
        self._bar = Progress(
            TextColumn("round"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("rounds", total=rounds, figures="starting …")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
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
        self._bar.stop()

    def _follow(self) -> None:
        while not self._done.wait(_EVERY):
            self._show()
        self._show()

    def _show(self) -> None:
        for line in self._log.lines():
            if ": loss " not in line:  # the bar says it
                self._bar.console.print(line, markup=False, highlight=False)
        rows = [json.loads(line) for line in self._metrics.lines()]
        if not rows:
            return
        last = [row for row in rows if row["round"] == rows[-1]["round"]]
        self._bar.update(self._task, completed=rows[-1]["round"], figures=_figures(last))


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
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.decode().splitlines()
