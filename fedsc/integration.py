"""How well batches are integrated: techniques should mix, cell types stay apart.

The measures of Luecken et al. 2022 ("Benchmarking atlas-level data integration in single-cell
genomics") with the scales of its package scib: from 0 to 1, more is better. They look at pairs of
cells and neighbours, so they are for pooled embeddings: simulations and benchmarks.
"""

import numpy as np

METRICS = ("ilisi", "clisi", "batch_asw", "type_asw", "connectivity")

NEIGHBORS = 90  # with a perplexity of a third, as Korsunsky et al. 2019
_CONNECTING = 15  # neighbours in the graph whose connectivity is measured
_HALVINGS = 50
_ENTROPY_TOLERANCE = 1e-5
_ROWS = 4096  # cells whose neighbours are looked at together


def scores(
    x: np.ndarray, batches: np.ndarray, labels: np.ndarray | None
) -> dict[str, float | None]:
    """Score an embedding.

    Parameters
    ----------
    x
        Embedding, float (cells, d).
    batches
        Batch of every cell, (cells,).
    labels
        Annotated type of every cell, (cells,), or ``None``.

    Returns
    -------
    dict
        The five :data:`METRICS`; ``None`` where one is undefined (no labels, a single batch or
        type, fewer than four cells).

        ``ilisi``
            (median LISI of batches − 1) / (batches − 1): 1 when all batches are around a cell
            in equal parts.
        ``clisi``
            (types − median LISI of types) / (types − 1): 1 when only its own type is.
        ``batch_asw``
            Of :func:`batch_silhouette`.
        ``type_asw``
            (1 + silhouette of the types) / 2.
        ``connectivity``
            Of :func:`connectivity`.
    """
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(x) < 4:
        return found
    distances, neighbors = nearest_neighbors(x, min(NEIGHBORS, len(x) - 1))
    n_batches = len(np.unique(batches))
    if n_batches > 1:
        median = float(np.median(lisi(distances, neighbors, batches)))
        found["ilisi"] = (median - 1) / (n_batches - 1)
    if labels is None:
        return found
    found["connectivity"] = connectivity(neighbors[:, :_CONNECTING], labels)
    if n_batches > 1:
        found["batch_asw"] = batch_silhouette(x, batches, labels)
    n_types = len(np.unique(labels))
    if n_types > 1:
        median = float(np.median(lisi(distances, neighbors, labels)))
        found["clisi"] = (n_types - median) / (n_types - 1)
    if 1 < n_types < len(x):
        found["type_asw"] = (1 + float(_silhouettes(x, labels).mean())) / 2
    return found


def nearest_neighbors(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest other cells of every cell, exactly.

    Returns
    -------
    tuple
        Distances, float64, and rows, int64, both (cells, k), the nearest first.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, neighbors = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    return distances, neighbors


def lisi(distances: np.ndarray, neighbors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Give the local inverse Simpson's index (Korsunsky et al. 2019, online methods).

    How many groups there are around a cell: 1 / Σ_g p_g², p_g the share of group g among its
    neighbours, each weighted by exp(−β·distance), β such that the entropy of the weights is that
    of k/3 equal ones.

    Parameters
    ----------
    distances, neighbors
        Of :func:`nearest_neighbors`.
    groups
        Batch or type of every cell, (cells,).

    Returns
    -------
    np.ndarray
        float64 (cells,), from 1 to the number of groups.
    """
    names, codes = np.unique(groups, return_inverse=True)
    index = np.empty(len(distances))
    for start in range(0, len(index), _ROWS):
        rows = slice(start, start + _ROWS)
        weights = _weights(distances[rows])
        own = codes[neighbors[rows]]
        shares = [np.where(own == code, weights, 0).sum(axis=1) for code in range(len(names))]
        index[rows] = 1 / np.square(shares).sum(axis=0)
    return index


def batch_silhouette(x: np.ndarray, batches: np.ndarray, labels: np.ndarray) -> float | None:
    """Give 1 − |silhouette of the batches within a type|, the mean of types' means.

    Types in a single batch, or with a batch for every cell, do not count; ``None`` if none does.
    """
    means = []
    for label in np.unique(labels):
        own = labels == label
        if 1 < len(np.unique(batches[own])) < own.sum():
            means.append(1 - np.abs(_silhouettes(x[own], batches[own])).mean())
    return float(np.mean(means)) if means else None


def connectivity(neighbors: np.ndarray, labels: np.ndarray) -> float:
    """Give the share of a type's cells in its largest connected part, the mean over types.

    Parameters
    ----------
    neighbors
        Rows of every cell's nearest neighbours, int (cells, k): the graph, whose edges count in
        either direction.
    labels
        Type of every cell, (cells,).
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n_cells, k = neighbors.shape
    ends = np.arange(n_cells + 1) * k
    graph = csr_matrix((np.ones(n_cells * k), neighbors.ravel(), ends), shape=(n_cells, n_cells))
    shares = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        _, parts = connected_components(graph[own][:, own], directed=False)
        shares.append(np.bincount(parts).max() / len(own))
    return float(np.mean(shares))


def _silhouettes(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(x, groups))


def _weights(distances: np.ndarray) -> np.ndarray:
    """Weigh neighbours to a perplexity of a third of them, rows sum to 1; by bisection of β."""
    excess = distances - distances[:, :1]  # the same weights, and the nearest never vanishes
    wanted = np.log(max(distances.shape[1] // 3, 1))
    beta = np.ones(len(distances))
    low, high = np.zeros(len(beta)), np.full(len(beta), np.inf)
    for _ in range(_HALVINGS):
        weights = np.exp(-excess * beta[:, None])
        total = weights.sum(axis=1)
        above = np.log(total) + beta * (weights * excess).sum(axis=1) / total - wanted
        if (np.abs(above) <= _ENTROPY_TOLERANCE).all():
            break
        wide = above > 0
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + high) / 2)
    return np.asarray(weights / total[:, None])
