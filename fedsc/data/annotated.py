"""Give results back to a file's owner: a copy of the file with more in it, scanpy style.

A copy of an ``.h5ad`` is a copy of its bytes, to which the results are added: nothing that was in
it is read, so it may be larger than memory, and all of it stays as it was.
"""

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.data.expression import LabCells, OnDisk
from fedsc.data.reading.backed import Backed
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.errors import DataError
from fedsc.files import identity, replace, replacing

if TYPE_CHECKING:
    import anndata
    import h5py
    import pandas as pd

_MARKERS = "rank_genes_groups"
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


@dataclass(frozen=True)
class Additions:
    """What is added to the cells of a file, by name; ``None`` = what is there of that name goes.

    Attributes
    ----------
    obs
        Columns, one value a cell.
    obsm
        Arrays, one row a cell.
    uns
        Anything else.
    """

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    def add_to(self, cells: "anndata.AnnData") -> None:
        """Add everything to cells in memory, which are the same in the same order."""
        for name, column in self.obs.items():
            if column is None:
                cells.obs = cells.obs.drop(columns=name, errors="ignore")
            else:
                cells.obs[name] = column
        for place, items in ((cells.obsm, self.obsm), (cells.uns, self.uns)):
            for name, item in items.items():
                if item is not None:
                    place[name] = item
                elif name in place and not (name == _MARKERS and not _are_ours(place[name])):
                    del place[name]


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
                name != _MARKERS or _are_ours(_params(content[group][name]))
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


@dataclass(frozen=True)
class Annotation:
    """FedSC's results for the cells of one file.

    Attributes
    ----------
    embedding
        float (cells, dimensions).
    clusters
        int (cells,), from 0 to k − 1.
    k
        Number of clusters: all of them are categories, also those with no cell here, so that
        they are the same in every lab.
    about
        What has to be known to use the results.
    types
        Cell type of every cluster, (k,); empty where none is known.
    shares
        Share of a cluster's annotated cells that are of its type, float (k,).
    distances
        Of every cell to the nearest centre of its cluster, float (cells,); ``None`` = not known.
    places
        Of the cells on the map all labs share, float (cells, 2); ``None`` where there is none.
    markers
        In scanpy's own layout; ``None`` where there are none.
    left_out
        Why quality control leaves a cell out, str (all cells,), ``""`` = it does not; all else is
        of the others alone. ``None`` where there was no control.
    """

    embedding: np.ndarray
    clusters: np.ndarray
    k: int
    about: dict[str, Any]
    types: Sequence[str] = ()
    shares: np.ndarray | None = None
    distances: np.ndarray | None = None
    places: np.ndarray | None = None
    markers: dict[str, Any] | None = None
    left_out: np.ndarray | None = None


def cluster_column(clusters: np.ndarray, k: int) -> "pd.Categorical":
    """Name clusters; all k are categories, so that they and their colours are those of every lab.

    Parameters
    ----------
    clusters
        int (cells,); −1 = none.
    k
        How many there are.
    """
    import pandas as pd

    return pd.Categorical.from_codes(clusters, categories=[str(i) for i in range(k)])


def type_column(types: Sequence[str], clusters: np.ndarray) -> "pd.Categorical":
    """Give each cell the type of its cluster; the types of all clusters are categories.

    Parameters
    ----------
    types
        Of every cluster, (k,).
    clusters
        As of :func:`cluster_column`.
    """
    import pandas as pd

    names = sorted(set(types))
    codes = np.array([*(names.index(name) for name in types), -1])  # −1 is the last
    return pd.Categorical.from_codes(codes[clusters], categories=names)


def additions_of(results: Annotation) -> Additions:
    """Give FedSC's results the names that every file has them under.

    ``obsm["X_fedsc"]``, ``obs["fedsc_cluster"]`` and ``uns["fedsc"]``; where they are known also
    ``obs["fedsc_type"]``, ``obs["fedsc_type_share"]``, ``obs["fedsc_distance"]``,
    ``obsm["X_fedsc_umap"]`` and ``uns["rank_genes_groups"]``. After quality control also
    ``obs["fedsc_left_out"]``; all else is missing (NaN) for the cells left out. What an older run
    added of these goes; markers that are not of FedSC's clusters stay unless there are new ones.
    """
    import pandas as pd

    left_out = results.left_out
    n_cells = len(results.clusters) if left_out is None else len(left_out)
    rows = np.flatnonzero(np.ones(n_cells) if left_out is None else left_out == "")

    def spread(values: np.ndarray, missing: Any) -> np.ndarray:
        whole = np.full((n_cells, *values.shape[1:]), missing, dtype=values.dtype)
        whole[rows] = values
        return whole

    clusters = spread(results.clusters, -1)
    obs: dict[str, Any] = {
        "fedsc_cluster": cluster_column(clusters, results.k),
        "fedsc_type": None,
        "fedsc_type_share": None,
        "fedsc_distance": None,
        "fedsc_left_out": None,
    }
    if left_out is not None:
        obs["fedsc_left_out"] = pd.Categorical([why or None for why in left_out])
    if len(results.types) and results.shares is not None:
        obs["fedsc_type"] = type_column(results.types, clusters)
        obs["fedsc_type_share"] = spread(results.shares[results.clusters], np.nan)
    if results.distances is not None:
        obs["fedsc_distance"] = spread(results.distances.astype(np.float32), np.nan)
    places = results.places
    if places is not None:
        places = spread(places.astype(np.float32, copy=False), np.nan)
    return Additions(
        obs,
        {
            "X_fedsc": spread(results.embedding.astype(np.float32, copy=False), np.nan),
            "X_fedsc_umap": places,
        },
        {"fedsc": storable(results.about), _MARKERS: results.markers},
    )


def _are_ours(markers: Any) -> bool:
    """Tell markers of FedSC's clusters from those a person has made with scanpy."""
    params = markers.get("params") if isinstance(markers, Mapping) else None
    return isinstance(params, Mapping) and params.get("groupby") == "fedsc_cluster"


def storable(value: Any) -> Any:
    """Turn a record into what an h5ad file holds: no ``None``, no list, no "/" in a name."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None}
        return {str(key).replace("/", " per "): storable(item) for key, item in kept.items()}
    return np.asarray(value) if isinstance(value, list | tuple) else value
