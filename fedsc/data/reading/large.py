"""Files too large to be held in memory by a lab: their values are copied once into a plain file.

The copy lies in a folder for what can be made anew. It belongs to exactly one matrix of exactly one
file and is used again as long as that file is the same.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from fedsc import tensors
from fedsc.data.expression import Kind, LabCells, OnDisk
from fedsc.data.reading.contents import Contents
from fedsc.data.reading.kind import Values, joined, look_at
from fedsc.data.reading.stored import Dense
from fedsc.data.reading.validate import judged, label_problems, name_problems
from fedsc.data.rows import Rows, open_rows, write_rows
from fedsc.errors import DataError
from fedsc.files import identity, locked, make_folder, replace, replacing

IN_MEMORY = 2**29
"""Bytes the matrices of a process may take in memory. It needs several times as much."""

_FORMAT = 1
_LOCK = ".lock"  # who copies or removes files of a folder holds it


def is_large(contents: Contents, files: int = 1) -> bool:
    """Tell whether a file's matrix stays on disk: it takes much memory and lies cell by cell.

    Parameters
    ----------
    contents
        Of the file.
    files
        How many files of this size the process reads.
    """
    matrix = contents.matrix
    if isinstance(matrix, csr_matrix):
        return False
    by_cell = not matrix.genes_first if isinstance(matrix, Dense) else not matrix.by_gene
    return by_cell and files * matrix.needed_bytes() > IN_MEMORY


def keep(path: Path, contents: Contents, layer: str, folder: Path) -> OnDisk:
    """Copy the values of an open file into a folder, unless they are there, and validate them.

    Parameters
    ----------
    path
        Of the file.
    contents
        What is in it, the matrix :func:`is_large`.
    layer
        Which of its matrices that is.
    folder
        Made where there is none.

    Raises
    ------
    DataError
        With one line per problem.
    RunError
        If the copy cannot be written.
    """
    problems = name_problems(contents.genes, contents.cells)
    problems += label_problems(contents.obs, contents.label_key)
    key = json.dumps([_FORMAT, layer, identity(path)])
    place = make_folder(folder) / kept_name(path, layer)
    with locked(place.parent / _LOCK):
        found = _load(place, key)
        if found is None:
            found, refused = _copy(contents, place, key)
            problems += refused
    if problems or found is None:
        raise DataError("\n".join(f"{path}: {problem}" for problem in problems))
    rows, kind = found
    return OnDisk(rows=rows, folder=folder, **contents.annotated(kind))


def forget_others(cells: Iterable[LabCells]) -> None:
    """Remove what is left in the folder of these cells of the values of any others.

    Who reads them has them open, and keeps them; who copies is waited for.
    """
    on_disk = [own for own in cells if isinstance(own, OnDisk)]
    kept = {own.rows.file.path.stem for own in on_disk}
    for folder in {own.folder for own in on_disk}:
        with locked(folder / _LOCK):
            for file in folder.glob("rows-*"):
                if file.stem not in kept:
                    file.unlink(missing_ok=True)


def kept_name(path: Path, layer: str) -> str:
    """Name the copy of one matrix of one file: the two files of it begin so."""
    return "rows-" + hashlib.sha256(json.dumps([str(path.resolve()), layer]).encode()).hexdigest()


def _copy(contents: Contents, place: Path, key: str) -> tuple[tuple[Rows, Kind] | None, list[str]]:
    """Copy and look at the values in one pass; what is refused leaves no copy."""
    seen: list[tuple[int, Values]] = []

    def blocks() -> Iterator[csr_matrix]:
        assert not isinstance(contents.matrix, csr_matrix)
        for block in contents.matrix.blocks():
            if contents.columns is not None:
                block = csr_matrix(block[:, contents.columns])
            seen.append((block.shape[0], look_at(block)))
            yield block

    index, values = _files(place)
    index.unlink(missing_ok=True)  # of an older copy
    with replacing(values) as partial:
        counts, totals = write_rows(partial, blocks())
    kind, refused = judged(
        joined(seen), contents.name, contents.cells, contents.genes, contents.others
    )
    if kind is None:
        values.unlink()
        return None, refused
    width = len(contents.genes)
    about = {"key": key, "kind": kind, "width": width}
    replace(index, tensors.pack({"counts": counts, "totals": totals}, about))
    return (open_rows(values, counts, totals, width), kind), []


def _load(place: Path, key: str) -> tuple[Rows, Kind] | None:
    """Open the copy that was made under a key; ``None`` where there is none, or a damaged one."""
    index, values = _files(place)
    try:
        arrays, about = tensors.read(index)
        if about["key"] != key:
            return None
        counts, totals = arrays["counts"].astype(np.int64), arrays["totals"]
        return open_rows(values, counts, totals, int(about["width"])), about["kind"]
    except (OSError, KeyError, ValueError, TypeError):
        return None


def _files(place: Path) -> tuple[Path, Path]:
    return place.with_suffix(".safetensors"), place.with_suffix(".values")
