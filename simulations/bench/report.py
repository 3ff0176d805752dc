"""What a suite leaves in its folder: rows.parquet, table.md and the figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from simulations.bench.cell import Cell, Row
from simulations.bench.figures import draw
from simulations.bench.suite import Place, Suite
from simulations.bench.table import frame, markdown


def write_report(
    suite: Suite,
    planned: Sequence[tuple[Place, Cell]],
    rows: Mapping[str, Row],
    cells: Path,
    into: Path,
) -> list[Path]:
    """Write a suite's rows, page and figures from the cells that are finished.

    Parameters
    ----------
    suite, planned
        The suite and its cells.
    rows
        Of the finished cells, by key; at least one.
    cells
        Folder of the cells' folders.
    into
        The suite's folder; made when missing.

    Returns
    -------
    list of Path
        The files written.
    """
    into.mkdir(parents=True, exist_ok=True)
    table = frame(planned, rows)
    parquet, page = into / "rows.parquet", into / "table.md"
    table.to_parquet(_partial(parquet), index=False)
    os.replace(_partial(parquet), parquet)
    figures = draw(suite, planned, table, cells, into)
    images = [f"![{path.stem}]({path.name})" for path in figures]
    _partial(page).write_text(
        "\n\n".join([markdown(suite, planned, rows).rstrip(), *images]) + "\n", encoding="utf-8"
    )
    os.replace(_partial(page), page)
    return [page, parquet, *figures]


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
