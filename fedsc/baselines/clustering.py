"""The last step of every trained method: from an embedding to clusters."""

from typing import Any

import numpy as np

from fedsc.baselines.method import Settings
from fedsc.errors import ConfigError
from fedsc.evaluate import kmeans, leiden

RESOLUTION = 0.5  # of Leiden, where the number of clusters is not given


def cluster(embedding: np.ndarray, settings: Settings) -> tuple[np.ndarray, dict[str, Any]]:
    """Cluster with k-means, or with Leiden where no k is given; labels are never looked at.

    Parameters
    ----------
    embedding
        float (cells, dimensions).
    settings
        ``k`` and ``seed`` count here.

    Returns
    -------
    tuple
        int cluster of every cell (cells,), and what was chosen, JSON-able.

    Raises
    ------
    ConfigError
        If ``k`` is not a possible number of clusters of these cells.
    """
    k = settings.k
    if k is None:
        clusters = leiden(embedding, RESOLUTION, settings.seed)
        return clusters, {"by": "leiden", "resolution": RESOLUTION, "k": int(clusters.max()) + 1}
    if not 1 <= k <= len(embedding):
        raise ConfigError(
            f"k = {k} clusters cannot be made of {len(embedding)} cells; "
            f"choose k between 1 and {len(embedding)}, or 'auto'"
        )
    return kmeans(embedding, k, settings.seed), {"by": "k-means", "k": k}
