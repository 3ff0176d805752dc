"""Give results back to a file's owner: a copy of the file with more in it, scanpy style."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    places: np.ndarray | None = None
    markers: dict[str, Any] | None = None
    left_out: np.ndarray | None = None


_COLUMNS = ("fedsc_cluster", "fedsc_type", "fedsc_type_share", "fedsc_left_out")
_MARKERS = "rank_genes_groups"


def add_results(cells: "anndata.AnnData", results: Annotation) -> None:
    """Add FedSC's results to cells; what an older run added goes.

    Parameters
    ----------
    cells
        Gets ``obsm["X_fedsc"]``, ``obs["fedsc_cluster"]`` and ``uns["fedsc"]``; where they are
        known also ``obs["fedsc_type"]`` and ``obs["fedsc_type_share"]``,
        ``obsm["X_fedsc_umap"]`` and ``uns["rank_genes_groups"]``. After quality control also
        ``obs["fedsc_left_out"]``; all else is missing (NaN) for the cells left out.
    results
        Of the same cells in the same order.
    """
    import pandas as pd

    left_out = results.left_out
    rows = np.flatnonzero(np.ones(cells.n_obs) if left_out is None else left_out == "")

    def spread(values: np.ndarray, missing: Any) -> np.ndarray:
        whole = np.full((cells.n_obs, *values.shape[1:]), missing, dtype=values.dtype)
        whole[rows] = values
        return whole

    cells.obsm["X_fedsc"] = spread(results.embedding.astype(np.float32, copy=False), np.nan)
    cells.obs = cells.obs.drop(columns=list(_COLUMNS), errors="ignore")
    cells.obsm.pop("X_fedsc_umap", None)
    names = [str(cluster) for cluster in range(results.k)]
    cells.obs["fedsc_cluster"] = pd.Categorical.from_codes(
        spread(results.clusters, -1), categories=names
    )
    if left_out is not None:
        cells.obs["fedsc_left_out"] = pd.Categorical([why or None for why in left_out])
    if len(results.types) and results.shares is not None:
        of_cells = np.asarray(results.types, dtype=object)[results.clusters]
        cells.obs["fedsc_type"] = pd.Categorical(
            spread(of_cells, None), categories=sorted(set(results.types))
        )
        cells.obs["fedsc_type_share"] = spread(results.shares[results.clusters], np.nan)
    if results.places is not None:
        cells.obsm["X_fedsc_umap"] = spread(results.places.astype(np.float32, copy=False), np.nan)
    if _are_ours(cells.uns.get(_MARKERS)):
        del cells.uns[_MARKERS]
    if results.markers is not None:
        cells.uns[_MARKERS] = results.markers
    cells.uns["fedsc"] = storable(results.about)


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
