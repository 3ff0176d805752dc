"""``fedsc split``: one file into one file per lab."""

import csv
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from fedsc.cli.output import Force
from fedsc.config import Config
from fedsc.data.registry import resolve
from fedsc.errors import DataError
from fedsc.files import make_folder, writing

if TYPE_CHECKING:
    import anndata
    import numpy as np
    import pandas as pd

_TABLE = "split.csv"
_FIGURE = "split.png"


def split(
    dataset: Annotated[str, typer.Argument(help="File, or a name `fedsc datasets` lists.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the labs' files.")],
    partition: Annotated[
        str | None, typer.Option(help="subtypes, iid, dirichlet or column.")
    ] = None,
    labs: Annotated[int | None, typer.Option(help="Number of labs.")] = None,
    subtypes_per_lab: Annotated[
        int | None, typer.Option(help="subtypes: cell types per lab; default: the set's own, or 2.")
    ] = None,
    cover: Annotated[
        str | None, typer.Option(help="subtypes: drop types that no lab drew, or deal out all.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="dirichlet: concentration.")] = None,
    min_cells: Annotated[int | None, typer.Option(help="dirichlet: fewest cells of a lab.")] = None,
    partition_key: Annotated[
        str | None, typer.Option(help="column: the column of obs that names the lab.")
    ] = None,
    label_key: Annotated[str | None, typer.Option(help="Column of obs with cell types.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    force: Force = False,
) -> None:
    """Split one data set into one .h5ad per lab, to rehearse a federation.

    Each file keeps all that the original has of its cells (X, layers, raw, obs, var, obsm).
    split.csv counts the cells per lab and type; split.png draws the counts.

    **Examples**

    The paper's split of the bladder cells, 4 labs with 4 types each:

    `fedsc split mouse_bladder -o labs`

    Your file by a real column:

    `fedsc split cells.h5ad -o labs --partition column --partition-key donor`

    Eight labs of uneven mix:

    `fedsc split cells.h5ad -o labs --partition dirichlet --labs 8 --label-key cell_type`
    """
    from fedsc.data.groups import group_names
    from partitioning import partition_obs
    from partitioning.simulation import covering, with_own_k
    from partitioning.table import plot, rich_table, table

    source = resolve(dataset)
    given = {
        "dataset": dataset,
        "partition": partition,
        "labs": labs,
        "subtypes-per-lab": subtypes_per_lab,
        "cover": cover,
        "beta": beta,
        "min-cells": min_cells,
        "partition-key": partition_key,
        "seed": seed,
    }
    options = {key: value for key, value in given.items() if value is not None}
    config = Config.from_mapping(with_own_k(options, source))
    cells, label_key = _open(source.path, source.layer, label_key or source.label_key)
    parts = partition_obs(cells.obs, label_key, covering(config.split, source), config.run.seed)
    types = group_names(cells.obs[label_key]) if label_key else None
    counts = table(parts, types)

    stale = _check_output(output, source.path, parts, force=force)
    _write(cells, parts, counts, output, stale, plot)
    if cells.isbacked:
        cells.file.close()
    console = Console()
    console.print(rich_table(counts))
    kept = sum(len(rows) for rows in parts.values())
    if kept < len(cells.obs):
        left = ", ".join(str(kind) for kind in counts.columns[counts.sum() == 0])
        console.print(
            f"in no lab: {len(cells.obs) - kept} cells of type {left} (--cover all deals them too)",
            markup=False,
        )
    console.print(f"{len(parts)} files in {output}", markup=False, highlight=False, soft_wrap=True)


def _open(path: Path, layer: str, label_key: str) -> "tuple[anndata.AnnData, str]":
    """Open a file; an ``.h5ad`` stays on disk and whole, other formats become an AnnData."""
    import anndata

    from fedsc.data.reading.safe_hdf5 import open_hdf5

    if path.suffix == ".h5ad":
        try:
            open_hdf5(path).close()  # nothing in it leads out of it
            with warnings.catch_warnings():  # of old formats and repeated names: not our business
                warnings.simplefilter("ignore")
                cells = anndata.read_h5ad(path, backed="r")
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: cannot be read as .h5ad ({error})") from error
        return cells, label_key
    import pandas as pd

    from fedsc.data.reading.how import ReadAs
    from fedsc.data.reading.read import read

    found = read(path, ReadAs(layer, label_key))
    cells = anndata.AnnData(found.matrix, found.obs, pd.DataFrame(index=found.genes))
    return cells, found.label_key


def _check_output(
    output: Path, source: Path, labs: "Mapping[str, np.ndarray]", *, force: bool
) -> list[Path]:
    """Refuse to touch anything but an earlier split; give the files of it that must go.

    A folder is read as one lab per file, so a file left over would become a lab of its own.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"--output {output} is a file: name a folder")
    if source.resolve() in {(output / f"{lab}.h5ad").resolve() for lab in labs}:
        raise DataError(f"--output {output}: a lab's file would replace {source}; name another")
    there = {path.stem for path in output.glob("*.h5ad")}
    listed = output / _TABLE
    if not there and not listed.exists():
        return []
    if not force:
        raise DataError(
            f"--output {output} already holds .h5ad files or a {_TABLE}: name another folder, or "
            f"replace the split with --force"
        )
    earlier: set[str] = set()
    if listed.exists():
        with listed.open(newline="", encoding="utf-8") as file:
            earlier = {row.get("lab", "") for row in csv.DictReader(file)}
    if foreign := sorted(there - earlier):
        raise DataError(
            f"--output {output} holds {foreign[0]}.h5ad, which is not of an earlier split (not in "
            f"{_TABLE}): --force does not replace it; name another folder"
        )
    return [output / f"{lab}.h5ad" for lab in sorted(there - set(labs))]


def _write(
    cells: "anndata.AnnData",
    parts: "Mapping[str, np.ndarray]",
    counts: "pd.DataFrame",
    output: Path,
    stale: list[Path],
    plot: "Callable[[pd.DataFrame, Path], None]",
) -> None:
    """Write everything beside its place first, so that a full disk leaves what was there."""
    from fedsc.data.annotated import pack

    with (
        writing(make_folder(output)),
        tempfile.TemporaryDirectory(dir=output, prefix=".split-") as name,
    ):
        folder = Path(name)
        for lab, rows in track(
            parts.items(), "writing", console=Console(stderr=True), transient=True
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                part = pack(cells[rows].to_memory())
            (folder / f"{lab}.h5ad").write_bytes(part)
        counts.to_csv(folder / _TABLE)
        plot(counts, folder / _FIGURE)
        for path in stale:
            path.unlink()
        # The table goes first: it is what tells a later --force which files are a split's.
        for file in (_TABLE, *(f"{lab}.h5ad" for lab in parts), _FIGURE):
            os.replace(folder / file, output / file)
