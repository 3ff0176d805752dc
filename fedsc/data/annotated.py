"""Give results back to a file's owner: a copy of the file with more in it, scanpy style.

A copy of an ``.h5ad`` is a copy of its bytes, to which the results are added: nothing that was in
it is read, so it may be larger than memory, and all of it stays as it was.
"""

import io
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.data.additions import MARKERS, Additions, are_ours
from fedsc.data.expression import LabCells, OnDisk
from fedsc.data.reading.backed import Backed
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.errors import DataError
from fedsc.files import identity, replace, replacing

if TYPE_CHECKING:
    import anndata
    import h5py

_SLACK = 2**20  # bytes for HDF5's own tables
_PIECE = 2**24  # bytes written at a time


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a lab's cells are from.

    Attributes
    ----------
    path
        In any format :func:`fedsc.data.reading.read.read` knows.
    rows
        Which cells of the file, int (cells,); ``None`` = all.
    how
        Which of its values were read, and under which names.
    """

    path: Path
    rows: np.ndarray | None = None
    how: ReadAs = AS_IT_IS

    @property
    def how_of_copy(self) -> ReadAs:
        """How a copy is read alike: one of another format holds just what was read."""
        return self.how if self.path.suffix == ".h5ad" else AS_IT_IS


def write_annotated(
    origin: Origin,
    output: Path,
    expression: LabCells | Backed,
    additions: Additions,
) -> None:
    """Copy a file, or some of its cells, to an ``.h5ad`` with results added.

    The file itself is only read.

    Parameters
    ----------
    origin
        Of an ``.h5ad`` everything is copied, of another format the expression and its annotation
        are. To take some rows of an ``.h5ad``, all of it is read.
    output
        The copy, replaced whole or not at all; its folder exists.
    expression
        The cells of ``origin``, in their order.
    additions
        Of the same cells in the same order.

    Raises
    ------
    DataError
        If a part of the file that is only copied cannot be.
    RunError
        If the copy cannot be written.
    """
    file, rows = origin.path, origin.rows
    if file.suffix == ".h5ad" and rows is None and _is_current(file):
        _copy_with(file, output, additions)
        return
    if isinstance(expression, Backed) or (
        isinstance(expression, OnDisk) and file.suffix == ".h5ad" and rows is None
    ):
        old = "its layout is that of anndata before 0.7: write it again"
        raise DataError(f"{file}: {old}", f"the lab's file: {old}")
    import anndata

    if file.suffix == ".h5ad":
        whole = _read_whole(file, identity(file))
        cells = whole.copy() if rows is None else whole[rows].copy()
    else:
        if isinstance(expression, OnDisk):
            matrix = expression.rows.read(0, len(expression.cells))
        else:
            matrix = expression.matrix
        cells = anndata.AnnData(matrix, obs=expression.obs.copy())
        cells.obs_names, cells.var_names = expression.cells, expression.genes
    additions.add_to(cells)
    replace(output, pack(cells))


def _is_current(file: Path) -> bool:
    """Check what will be copied unread; tell whether its layout is that of anndata since 0.7."""
    import h5py

    from fedsc.data.reading.read import explained
    from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_unwritten

    with explained(), open_hdf5(file) as content:
        content.visititems(
            lambda _, node: refuse_unwritten(node) if isinstance(node, h5py.Dataset) else None
        )
        obs = content["obs"]
        if not isinstance(obs, h5py.Group) or "column-order" not in obs.attrs:
            return False
        n_cells = len(obs[obs.attrs["_index"]])
        for name, node in content.get("obsm", {}).items():
            if isinstance(node, h5py.Dataset) and node.shape[:1] != (n_cells,):
                raise DataError(
                    f"the file cannot be read: obsm['{name}'] has {node.shape[0]} rows for "
                    f"{n_cells} cells"
                )
        return True


def _copy_with(file: Path, output: Path, additions: Additions) -> None:
    """Copy the bytes of an ``.h5ad`` and add to the copy.

    The copy gets all the room it will need before HDF5 opens it (see :func:`reserve`).
    """
    import h5py

    with io.BytesIO() as memory:
        with h5py.File(memory, "w") as trial:
            trial.create_group("obs").attrs["column-order"] = []
            _add(trial, additions)
        room = 2 * memory.getbuffer().nbytes
    with replacing(output) as partial:
        shutil.copyfile(file, partial)
        reserve(partial, room)
        with h5py.File(partial, "r+") as content:
            _add(content, additions)


def reserve(file: Path, room: int) -> None:
    """Take the room on disk that will be added to an HDF5 file.

    HDF5 does not survive a disk that is full: its library dies when what it holds back cannot be
    written. It cuts off at the end what was not needed.

    Parameters
    ----------
    file
        Closed.
    room
        Bytes, without HDF5's own tables.

    Raises
    ------
    OSError
        If there is less.
    """
    room += _SLACK
    with file.open("ab") as end:
        for start in range(0, room, _PIECE):
            end.write(bytes(min(_PIECE, room - start)))


def _add(content: "h5py.File", additions: Additions) -> None:
    from anndata.io import write_elem

    options = {"compression": "gzip"}
    obs = content["obs"]
    for name, column in additions.obs.items():
        if column is not None:
            write_elem(obs, name, column, dataset_kwargs=options)
        elif name in obs:
            del obs[name]
    kept = [name for name in obs.attrs["column-order"] if name not in additions.obs]
    new = [name for name, column in additions.obs.items() if column is not None]
    obs.attrs["column-order"] = kept + new
    for group, items in (("obsm", additions.obsm), ("uns", additions.uns)):
        for name, item in items.items():
            if item is not None:
                if group not in content:
                    write_elem(content, group, {})
                write_elem(content[group], name, item, dataset_kwargs=options)
            elif name in content.get(group, {}) and (
                name != MARKERS or are_ours(_params(content[group][name]))
            ):
                del content[group][name]


def _params(node: "h5py.Group | h5py.Dataset") -> dict[str, Any]:
    """Read of markers in a file no more than how they were made."""
    import h5py
    from anndata.io import read_elem

    known = isinstance(node, h5py.Group) and "params" in node
    return {"params": read_elem(node["params"])} if known else {}


@lru_cache(maxsize=1)  # the labs of a simulation are parts of one file
def _read_whole(file: Path, _identity: object) -> "anndata.AnnData":
    from fedsc.data.reading.read import read_anndata

    return read_anndata(file)


def forget_file() -> None:
    """Let go of the file of which copies were made last."""
    _read_whole.cache_clear()


def pack(cells: "anndata.AnnData") -> bytes:
    """Give the content of an ``.h5ad`` file, made in memory because of disks that are full."""
    import h5py
    from anndata.io import write_elem

    cells.strings_to_categoricals()
    options = {"driver": "core", "backing_store": False, "block_size": 2**24}
    with h5py.File("memory.h5ad", "w", **options) as file:
        write_elem(file, "/", cells, dataset_kwargs={"compression": "gzip"})
        for name in ("X", "raw"):  # where there is none, an empty one, which cannot be opened
            if getattr(cells, name) is None:
                file.pop(name, None)
        file.flush()
        content: bytes = file.id.get_file_image()
    return content
