"""The last step of every method that embeds: from an embedding to clusters."""

from typing import Any

import numpy as np

from fedsc.baselines.method import Settings
from fedsc.errors import ConfigError, DataError
from fedsc.evaluate import kmeans
from fedsc.leiden import NEIGHBOURS, Flavor, leiden


def cluster(
    embedding: np.ndarray,
    k: int | None,
    settings: Settings,
    flavor: Flavor = "graspologic",
    neighbours: int = NEIGHBOURS,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Cluster with k-means, or with Leiden where no k is given; labels are never looked at.

    Parameters
    ----------
    embedding
        float (cells, dimensions).
    k
        Number of clusters, or ``None``.
    settings
        ``resolution`` and ``seed`` count here.
    flavor
        Whose Leiden.
    neighbours
        Cells in a neighbourhood of its graph.

    Returns
    -------
    tuple
        int cluster of every cell (cells,), and what was chosen, JSON-able.

    Raises
    ------
    ConfigError
        If ``k`` is not a possible number of clusters of these cells.
    DataError
        If fewer than ``k`` cells differ in the embedding, or there are too few for Leiden.
    """
    if k is None:
        clusters = leiden(embedding, settings.resolution, settings.seed, flavor, neighbours)
        return clusters, {
            "by": "leiden",
            "flavor": flavor,
            "neighbours": neighbours,
            "resolution": settings.resolution,
            "k": int(clusters.max()) + 1,
        }
    require_k(k, len(embedding))
    different = len(np.unique(embedding, axis=0))
    if different < k:
        raise DataError(
            f"k = {k} clusters cannot be made: only {different} of {len(embedding)} cells differ "
            f"in the embedding; choose k up to {different}"
        )
    return kmeans(embedding, k, settings.seed), {"by": "k-means", "k": k}


def require_k(k: int, n_cells: int) -> None:
    """Refuse a number of clusters that cells cannot be put into.

    Raises
    ------
    ConfigError
        If it is below 1 or above the number of cells.
    """
    if not 1 <= k <= n_cells:
        raise ConfigError(
            f"k = {k} clusters cannot be made of {n_cells} cells; "
            f"choose k between 1 and {n_cells}, or 'auto'"
        )
