"""The pages of results: rows kept in the repository, and the tables that are made from them.

``python -m simulations.bench.pages BENCH`` takes what is finished in a folder of ``fedsc bench``
into the rows and writes the tables anew; without a folder it only writes them. A row stays until
the same run is taken again, so rows may be of different code: each names its own.
"""

import glob
import json
import re
import sys
from pathlib import Path

import pandas as pd

from fedsc.files import replace
from simulations.bench.cell import ROW, Cell, Row
from simulations.bench.provenance import data_digest
from simulations.bench.suite import Place, Suite, load, places, plan, suites
from simulations.bench.table import frame, places_of, tables

DOCS = Path(__file__).parents[2] / "docs"
ROWS = DOCS / "results" / "rows"

_KEY = ["line", "at", "control", "dataset", "seed"]
_TEXT = ["line", "at", "dataset", "k_is", "warning", "options", "config_hash", "code", "data"]
_VERSIONS = ["torch", "numpy", "scikit_learn"]
_LEFT_OUT = ["cell", "method", "scored", "resumed", "seconds", "peak_memory"]
_BLOCK = re.compile(r"(<!-- rows of (?P<suite>[\w-]+) -->\n).*?(<!-- end of rows -->)", re.S)


def take(suite: Suite, cells: Path, into: Path) -> int:
    """Put the finished runs of a suite into its rows.

    Parameters
    ----------
    suite
        Whose runs.
    cells
        Folder of the cells' folders; of several runs that differ in their code alone the newest
        counts, and none of other data.
    into
        The CSV file; rows of runs that are not in ``cells`` stay.

    Returns
    -------
    int
        How many rows were taken.
    """
    planned = plan(suite)
    rows = {cell.key: row for _, cell in planned if (row := _finished(cell, cells))}
    if not rows:
        return 0
    found = frame(suite, planned, rows).drop(columns=_LEFT_OUT, errors="ignore")
    kept = [read_rows(into)] if into.exists() else []
    # pandas has to guess the type of a column that one of them leaves empty
    known = [part.dropna(axis="columns", how="all") for part in (*kept, found)]
    both = pd.concat(known, ignore_index=True).drop_duplicates(_KEY, keep="last")
    order = {place: i for i, place in enumerate(places(suite))}
    both["_order"] = [order.get(place, len(order)) for place in places_of(both)]
    both = both.sort_values(["_order", "seed"], kind="stable").drop(columns="_order")
    into.parent.mkdir(parents=True, exist_ok=True)
    replace(into, both.to_csv(index=False, lineterminator="\n").encode())
    return len(found)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a suite's rows as :func:`take` wrote them; none where there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=_KEY)
    text = dict.fromkeys([*_TEXT, *_VERSIONS], str)
    rows = pd.read_csv(path, dtype=text, float_precision="round_trip")
    return rows.assign(warning=rows["warning"].fillna("") if "warning" in rows else "")


def block(name: str, rows: pd.DataFrame) -> str:
    """Write what a page shows of a suite: command, tables, what was not run.

    Parameters
    ----------
    name
        Of the suite.
    rows
        Its rows.
    """
    suite = load(name)
    by_place: dict[Place, dict[int, Row]] = {place: {} for place in places(suite)}
    for place, row in zip(places_of(rows), _records(rows), strict=True):
        if place in by_place:
            by_place[place][int(str(row["seed"]))] = row
    parts = tables(suite, by_place, "###", f"fedsc bench {name} --seeds {suite.seeds}")
    if seeds := {seed for of_place in by_place.values() for seed in of_place}:
        command = f"fedsc bench {name} --seeds {max(seeds) + 1}"
        made_by = f"`{command}`, as far as it has run: [rows](rows/{name}.csv). {_versions(rows)}."
        parts = [made_by, *parts]
    return "\n\n".join(parts) + "\n"


def with_tables(page: str, folder: Path) -> str:
    """Write the tables of a page anew, between its comments ``rows of SUITE`` and ``end of rows``.

    Parameters
    ----------
    page
        Markdown.
    folder
        Of the rows.
    """

    def written(found: re.Match[str]) -> str:
        name = found["suite"]
        return f"{found[1]}\n{block(name, read_rows(folder / f'{name}.csv'))}\n{found[3]}"

    return _BLOCK.sub(written, page)


def pages_with_tables() -> list[Path]:
    """List the pages that show rows."""
    return [page for page in sorted((DOCS / "results").glob("*.md")) if _BLOCK.search(_text(page))]


def main(arguments: list[str]) -> None:
    """Take rows from a folder of ``fedsc bench``, if one is named, and write all tables."""
    if arguments:
        for name in suites():
            taken = take(load(name), Path(arguments[0]) / "cells", ROWS / f"{name}.csv")
            print(f"{name}: {taken} rows")  # noqa: T201
    for page in pages_with_tables():
        replace(page, with_tables(_text(page), ROWS).encode())


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _finished(cell: Cell, cells: Path) -> Row | None:
    """Give the newest finished row of a cell, whatever code made it."""
    files = cells.glob(f"{glob.escape(cell.name)}-*/{ROW}")
    rows: list[Row] = [json.loads(file.read_text()) for file in sorted(files, key=_age)]
    known = [row for row in rows if row["data"] == data_digest(cell.dataset)]
    return known[-1] if known else None


def _age(file: Path) -> float:
    return file.stat().st_mtime


def _records(rows: pd.DataFrame) -> list[Row]:
    """Give rows as a run wrote them: what is not known is ``None``."""
    needed = ("cpu_seconds", "bytes_from_labs", "bytes_to_labs")
    whole = rows.assign(**{name: None for name in needed if name not in rows})
    return [
        {name: None if pd.isna(value) else value for name, value in record.items()}
        for record in whole.to_dict("records")
    ]


def _versions(rows: pd.DataFrame) -> str:
    """Name the code and the packages that made the rows."""
    codes = ", ".join(f"`{code}`" for code in dict.fromkeys(rows["code"]))
    packages = [
        f"{name.replace('_', '-')} {', '.join(sorted(rows[name].dropna().unique()))}"
        for name in _VERSIONS
        if name in rows
    ]
    return f"Made with {', '.join(packages)}. Digest of the code: {codes}"


if __name__ == "__main__":
    main(sys.argv[1:])
