"""Run rows of the repository again, from nothing, and hold every score against them.

``python -m simulations.bench.repeat FOLDER [SUITE…]`` takes the cheapest row of two lines of each
suite, and prints what came of them. ``FOLDER`` must not hold these runs yet.
"""

import sys
from collections.abc import Hashable, Iterator
from pathlib import Path

import pandas as pd

from fedsc.errors import RunError
from simulations.bench.cell import COSTS, Cell, load_row, run_cell
from simulations.bench.pages import ROWS, read_rows
from simulations.bench.suite import Suite, load, plan, suites
from simulations.bench.table import places_of, seen
from simulations.inprocess import silence_flower

_ROWS = 2


def repeat(suite: Suite, rows: pd.DataFrame, count: int, folder: Path) -> Iterator[str]:
    """Run the cheapest row of each of the cheapest lines again.

    Parameters
    ----------
    suite, rows
        A suite and its rows.
    count
        How many lines.
    folder
        For the runs.

    Yields
    ------
    str
        One line a row: the cell, then ``equal``, or each score that differs, before and now.

    Raises
    ------
    RunError
        If ``folder`` holds one of the runs already.
    """
    cells = {(place, cell.seed): cell for place, cell in plan(suite)}
    lines = {line.name: line for line in suite.lines}
    cheap = rows.sort_values("cpu_seconds", kind="stable").drop_duplicates("line").head(count)
    for place, (_, kept) in zip(places_of(cheap), cheap.iterrows(), strict=True):
        cell: Cell = cells[place, int(kept["seed"])]
        if load_row(cell, folder) is not None:
            raise RunError(f"{folder} holds {cell.key} already: give another folder")
        now = seen(lines[place.line], run_cell(cell, folder))
        differ = [
            f"{name} {before} is now {now.get(name)}"
            for name, before in kept.items()
            if _is_score(name, before) and before != now.get(name)
        ]
        yield f"{cell.name}: {'; '.join(differ) or 'equal'}"


def _is_score(name: Hashable, value: object) -> bool:
    """Say whether a row's value is of the result: a number that is known, and no cost."""
    number = isinstance(value, float | int) and not isinstance(value, bool) and pd.notna(value)
    return number and name not in (*COSTS, "seed")


def main(arguments: list[str]) -> None:
    """Repeat rows of the suites named, or of all that have some."""
    silence_flower()
    folder, *names = arguments
    for name in names or suites():
        rows = read_rows(ROWS / f"{name}.csv")
        if len(rows):
            for line in repeat(load(name), rows, _ROWS, Path(folder) / name):
                print(f"{name}: {line}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
