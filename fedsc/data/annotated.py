"""Give results back to a file's owner: a copy of the file with more in it, scanpy style."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.data.expression import Expression
from fedsc.files import replacing

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
    RunError
        If the copy cannot be written.
    """
    import anndata

    if file.suffix == ".h5ad":
        cells = anndata.read_h5ad(file)
    else:
        cells = anndata.AnnData(expression.matrix, obs=expression.obs.copy())
        cells.obs_names, cells.var_names = expression.cells, expression.genes
    annotate(cells)
    with replacing(output) as partial:
        cells.write_h5ad(partial, compression="gzip")


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
