"""Leiden on the graph of nearest neighbours, as single-cell analysis clusters cells.

The graph is scanpy's (UMAP's fuzzy neighbours) to seven digits, without the seconds that compiling
UMAP's own code costs in every process. Why not igraph's Leiden: see ``docs/decisions/``.
"""

from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.errors import ConfigError, DataError

Flavor = Literal["graspologic", "igraph"]
"""Whose Leiden; ``"igraph"`` is scanpy's route to the letter, and needs ``fedsc[igraph]``."""

_LEAST_CELLS = 3  # a neighbour graph of fewer has nothing to tell

NEIGHBOURS = 15
"""Cells in a neighbourhood, the cell itself included: scanpy's default."""

_BISECTIONS = 64
_CLOSE_ENOUGH = 1e-5
_LEAST_WIDTH = 1e-3  # of the mean distance; the three are UMAP's own


def leiden(
    x: np.ndarray,
    resolution: float,
    seed: int,
    flavor: Flavor = "graspologic",
    neighbours: int = NEIGHBOURS,
) -> np.ndarray:
    """Cluster cells by modularity on their neighbour graph (Traag et al. 2019).

    Two iterations with randomness 0.01, as scanpy asks of igraph.

    Parameters
    ----------
    x
        Embedding, float (cells, dimensions), at least three cells.
    resolution
        γ > 0 of the modularity; larger gives more clusters.
    seed
        Moves the order in which cells are visited.
    flavor
        Whose implementation.
    neighbours
        Cells in a neighbourhood, the cell itself included.

    Returns
    -------
    np.ndarray
        int64 cluster of every cell, (cells,), the largest first.

    Raises
    ------
    ConfigError
        If ``flavor = "igraph"`` and igraph is not installed.
    DataError
        If there are too few cells.
    """
    if len(x) < _LEAST_CELLS:
        raise DataError(
            f"Leiden needs at least {_LEAST_CELLS} cells, and there are {len(x)}: bring more, or "
            "take other clusters (a number k, or a run's own)"
        )
    if flavor == "igraph":
        return _scanpy_leiden(x, resolution, seed, neighbours)
    from graspologic_native import leiden_csr

    graph = neighbour_graph(x, neighbours)
    _, communities = leiden_csr(
        graph.indptr.astype(np.int64),
        graph.indices.astype(np.int32),
        graph.data,
        len(x),
        resolution=resolution,
        randomness=0.01,
        iterations=2,
        seed=seed,
    )
    return by_size(np.array([communities[cell] for cell in range(len(x))]))


def by_size(clusters: np.ndarray) -> np.ndarray:
    """Number clusters from the largest, int64 (cells,); equal ones by their first cell."""
    _, first, inverse, sizes = np.unique(
        clusters, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort([first, -sizes])] = np.arange(len(sizes))
    return rank[inverse]


def neighbour_graph(x: np.ndarray, neighbours: int = NEIGHBOURS) -> csr_matrix:
    """Weigh every cell's nearest neighbours (McInnes et al. 2018, §3.1), as scanpy does.

    Of a cell, the nearest neighbour has weight 1 and the others exp(−(d − d₁)/σ), with σ such that
    the weights sum to log₂ of the neighbourhood. Cells i and j are joined by a + b − ab, a and b
    being what each gives the other.

    Parameters
    ----------
    x
        Embedding, float (cells, dimensions), at least three cells.
    neighbours
        Cells in a neighbourhood, the cell itself included.

    Returns
    -------
    csr_matrix
        float64, symmetric (cells, cells), zero diagonal, weights in (0, 1].
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(x)
    others = min(neighbours, n - 1) - 1
    distances, nearest = NearestNeighbors(n_neighbors=others).fit(x).kneighbors()
    weights = _memberships(distances.astype(np.float64))
    rows = np.repeat(np.arange(n), others)
    given = csr_matrix((weights.ravel(), (rows, nearest.ravel())), shape=(n, n))
    graph: csr_matrix = (given + given.T - given.multiply(given.T)).tocsr()
    return graph


def _memberships(distances: np.ndarray) -> np.ndarray:
    """Turn distances to the nearest others, (cells, others), into weights in (0, 1]."""
    n, others = distances.shape
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest[np.isinf(nearest)] = 0.0  # all others lie where the cell does
    beyond = np.maximum(distances - nearest[:, None], 0.0)
    low, high, width = np.zeros(n), np.full(n, np.inf), np.ones(n)
    target = np.log2(others + 1)
    for _ in range(_BISECTIONS):
        found = np.exp(-beyond / width[:, None]).sum(axis=1)
        open_ = np.abs(found - target) >= _CLOSE_ENOUGH
        high = np.where(open_ & (found > target), width, high)
        low = np.where(open_ & (found <= target), width, low)
        middle = np.where(np.isinf(high), 2.0 * width, (low + high) / 2.0)
        width = np.where(open_, middle, width)
    # UMAP counts the cell itself, at distance 0, into the means.
    mean = np.where(nearest > 0, distances.sum(axis=1), distances.sum() / n) / (others + 1)
    width = np.maximum(width, _LEAST_WIDTH * mean)
    return np.asarray(np.exp(-beyond / width[:, None]))


def _scanpy_leiden(x: np.ndarray, resolution: float, seed: int, neighbours: int) -> np.ndarray:
    """Cluster with scanpy, on its own neighbour graph and with igraph's Leiden."""
    try:
        import igraph  # noqa: F401
    except ImportError:
        raise ConfigError(
            "flavor = 'igraph' needs igraph, which is not installed: "
            "pip install 'fedsc[igraph]' (igraph is under the GPL), "
            "or take flavor = 'graspologic'"
        ) from None
    import anndata
    import scanpy as sc

    cells = anndata.AnnData(np.empty((len(x), 0), dtype=np.float32), obsm={"X": x})
    sc.pp.neighbors(
        cells,
        n_neighbors=min(neighbours, len(x) - 1),
        use_rep="X",
        random_state=seed,
        transformer="sklearn",  # scanpy 1.11.5's own search fails above 8192 cells
    )
    sc.tl.leiden(
        cells,
        resolution=resolution,
        random_state=seed,
        flavor="igraph",
        n_iterations=2,
        directed=False,
    )
    return np.asarray(cells.obs["leiden"].astype(int))
