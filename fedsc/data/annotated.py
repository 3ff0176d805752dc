"""Give results back to a file's owner: a copy of the file with more in it, scanpy style."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.data.expression import Expression
from fedsc.files import replace

if TYPE_CHECKING:
    import anndata


def write_annotated(
    file: Path,
    output: Path,
    expression: Expression,
    annotate: Callable[["anndata.AnnData"], None],
) -> None:
    """Copy a file to an ``.h5ad`` with results added; the file itself is only read.

    Parameters
    ----------
    file
        In any format :func:`fedsc.data.reading.read.read` knows. An ``.h5ad`` is copied with all
        it holds, of another format the expression and its annotation are.
    output
        The copy, replaced whole or not at all; its folder exists.
    expression
        The cells of the file, in its order.
    annotate
        Adds the results to the cells.

    Raises
    ------
    DataError
        If a part of the file that is only copied cannot be read.
    RunError
        If the copy cannot be written.
    """
    import anndata

    if file.suffix == ".h5ad":
        cells = _read_whole(file)
    else:
        cells = anndata.AnnData(expression.matrix, obs=expression.obs.copy())
        cells.obs_names, cells.var_names = expression.cells, expression.genes
    annotate(cells)
    replace(output, _pack(cells))


def _read_whole(file: Path) -> "anndata.AnnData":
    import anndata

    from fedsc.data.reading.read import explained
    from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_large

    with explained():
        with open_hdf5(file) as content:
            refuse_large(content)
        return anndata.read_h5ad(file)


def _pack(cells: "anndata.AnnData") -> bytes:
    """Give the content of an ``.h5ad`` file.

    It is made in memory, compressed, because HDF5 does not survive a disk that is full: its
    library dies, or complains for pages, when what it holds back cannot be written at the end.
    """
    import h5py
    from anndata.io import write_elem

    cells.strings_to_categoricals()
    options = {"driver": "core", "backing_store": False, "block_size": 2**24}
    with h5py.File("memory.h5ad", "w", **options) as file:
        write_elem(file, "/", cells, dataset_kwargs={"compression": "gzip"})
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def add_clusters(
    cells: "anndata.AnnData",
    embedding: np.ndarray,
    clusters: np.ndarray | None,
    k: int,
    about: dict[str, Any],
) -> None:
    """Add FedSC's results to cells.

    Parameters
    ----------
    cells
        Gets ``obsm["X_fedsc"]``, ``obs["fedsc_cluster"]`` and ``uns["fedsc"]``.
    embedding
        float32 (cells, dimensions).
    clusters
        int (cells,), from 0 to k − 1; ``None`` where there are none, and an older column goes.
    k
        Number of clusters: all of them are categories, also those with no cell here, so that
        they are the same in every lab.
    about
        What has to be known to use the results.
    """
    import pandas as pd

    cells.obsm["X_fedsc"] = embedding.astype(np.float32, copy=False)
    cells.obs = cells.obs.drop(columns="fedsc_cluster", errors="ignore")
    if clusters is not None:
        names = [str(cluster) for cluster in range(k)]
        cells.obs["fedsc_cluster"] = pd.Categorical.from_codes(clusters, categories=names)
    cells.uns["fedsc"] = storable(about)


def storable(value: Any) -> Any:
    """Turn a record into what an h5ad file holds: no ``None``, no list, no "/" in a name."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None}
        return {str(key).replace("/", " per "): storable(item) for key, item in kept.items()}
    return np.asarray(value) if isinstance(value, list | tuple) else value
