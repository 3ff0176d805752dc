"""``fedsc datasets``: the known sets, and which of them are on this machine."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedsc.data.catalogue import DATASETS, Dataset
from fedsc.data.registry import cache_folder, data_folder, find


def datasets() -> None:
    """List the named data sets: size as published, and where each one is.

    FedSC looks for a set in the folder that FEDSC_DATA names, then among the sets that come with
    FedSC and scanpy, then among earlier downloads. A set that can be downloaded is fetched when it
    is first used. Any other .h5ad in FEDSC_DATA has its file's name.

    **Examples**

    `fedsc datasets`

    `FEDSC_DATA=/data/single-cell fedsc datasets`
    """
    folder = data_folder()
    columns = ("name", "what", "cells × genes", "types", "k", "where", "note")
    shown = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.columns[0].no_wrap = True
    for column in (2, 3, 4, 6):
        shown.columns[column].justify = "right"
    notes: list[str] = []
    used: set[Path] = set()
    for name, entry in DATASETS.items():
        path = find(name)
        if path and folder:
            used |= {folder / f"{stem}.h5ad" for stem in (name, *entry.aliases)}
        note = f"{entry.note} Licence: {entry.licence or 'not stated'}.".strip()
        if note not in notes:
            notes.append(note)
        shown.add_row(
            name,
            entry.title,
            f"{_number(entry.cells)} × {_number(entry.genes)}",
            _number(entry.types),
            _number(entry.subtypes_per_lab),
            _where(entry, path, folder),
            str(notes.index(note) + 1),
        )
    console = Console()
    console.print(shown)
    for number, note in enumerate(notes, 1):
        console.print(f"{number}  {note}", markup=False, highlight=False)
    console.print("k: cell types per lab in the paper's four-lab splits; –: not known.")
    if folder is None:
        console.print("FEDSC_DATA is not set; point it at a folder with .h5ad files.")
        return
    others = sorted(path.stem for path in folder.glob("*.h5ad") if path not in used)
    if others:
        console.print(f"Also in {folder}: {', '.join(others)}", markup=False, highlight=False)


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def _where(entry: Dataset, path: Path | None, folder: Path | None) -> str:
    if path is None:
        return "download" if entry.url else "by hand"
    if path.parent == folder:
        return "FEDSC_DATA"
    return "cache" if path.parent == cache_folder() else f"with {entry.file.partition('/')[0]}"
