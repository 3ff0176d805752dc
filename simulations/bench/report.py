"""What a suite leaves in its folder: rows.parquet, table.md and the figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedsc.files import make_folder, replace, replacing
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
    command: str,
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
    command
        What would run what is not finished.

    Returns
    -------
    list of Path
        The files written.
    """
    make_folder(into)
    table = frame(suite, planned, rows)
    parquet, page = into / "rows.parquet", into / "table.md"
    with replacing(parquet) as partial:
        table.to_parquet(partial, index=False)
    figures = draw(suite, planned, table, cells, into)
    images = [f"![{path.stem}]({path.name})" for path in figures]
    content = [markdown(suite, planned, rows, command).rstrip(), *images]
    replace(page, ("\n\n".join(content) + "\n").encode())
    return [page, parquet, *figures]
