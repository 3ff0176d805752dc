"""Communities of a graph of some hundred nodes, by the Leiden algorithm in float64.

Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z: nodes move to the community where
modularity gains most, communities are refined from single nodes, the refined groups become the
nodes of a smaller graph, and so on; all of it again until nothing moves. Refinement is greedy
here, in place of drawn. Links are a dense matrix, so every step is a few sums over arrays.

graspologic-native, which finds communities of cells (``fedsc/leiden.py``), leaves links of a node
to itself out of account, and those of a group of cells count (decision 20).
"""

from collections import deque

import numpy as np

from fedsc.rng import numpy_generator

_RUNS = 5
_LEAST_GAIN = 1e-9  # in units of links, well above rounding errors: so the search ends


def leiden(links: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Give the partition of highest modularity of several runs.

    Parameters
    ----------
    links
        Symmetric, ≥ 0, float64 (M, M).
    resolution
        γ in :func:`modularity`.
    seed
        Moves the order in which nodes are visited.

    Returns
    -------
    np.ndarray
        Community of every node, int64 (M,), numbered in order of appearance.
    """
    runs = [_run(links, resolution, numpy_generator(seed, "leiden", i)) for i in range(_RUNS)]
    return max(runs, key=lambda run: modularity(links, run, resolution))


def modularity(links: np.ndarray, communities: np.ndarray, resolution: float) -> float:
    """Give Newman's modularity Σ_c (S_cc / w − γ (λ_c / w)²), with w = Σλ.

    Parameters
    ----------
    links
        S, symmetric, float64 (M, M); the diagonal counts once in the degrees λ = S·1.
    communities
        Of every node, int (M,).
    resolution
        γ.
    """
    between = merge(links, communities)
    degrees = between.sum(axis=1)
    total = degrees.sum()
    return float(np.trace(between) / total - resolution * np.square(degrees / total).sum())


def merge(links: np.ndarray, communities: np.ndarray) -> np.ndarray:
    """Sum links by community, float64 (C, C)."""
    of = indicator(communities)
    return np.asarray(of.T @ links @ of)


def indicator(communities: np.ndarray) -> np.ndarray:
    """Give 1 where a node is in a community, float64 (M, C)."""
    return np.asarray(np.eye(int(communities.max()) + 1)[communities])


def number(communities: np.ndarray) -> np.ndarray:
    """Number communities in order of appearance, int64 (M,)."""
    _, first, inverse = np.unique(communities, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def _run(links: np.ndarray, resolution: float, rng: np.random.Generator) -> np.ndarray:
    """Improve the partition into single nodes until nothing moves."""
    communities = np.arange(len(links))
    while True:
        improved = number(_improve(links, communities, resolution, rng))
        if np.array_equal(improved, communities):
            return improved
        communities = improved


def _improve(
    links: np.ndarray, communities: np.ndarray, resolution: float, rng: np.random.Generator
) -> np.ndarray:
    """Move nodes, then groups of nodes, then groups of these, until none can be put together."""
    group = np.arange(len(links))  # of every node of the graph, a node of the smaller graph
    while True:
        communities = _move(links, communities, resolution, rng)
        together = communities[:, None] == communities
        refined = number(
            _move(links * together, np.arange(len(links)), resolution, rng, links.sum(axis=1))
        )
        if refined.max() + 1 == len(links):
            return communities[group]
        group = refined[group]
        links = merge(links, refined)
        _, first = np.unique(refined, return_index=True)
        communities = number(communities[first])


def _move(
    links: np.ndarray,
    communities: np.ndarray,
    resolution: float,
    rng: np.random.Generator,
    degrees: np.ndarray | None = None,
) -> np.ndarray:
    """Move single nodes to the community where modularity gains most, until none gains.

    Parameters
    ----------
    links, communities, resolution, rng
        As everywhere here.
    degrees
        Of the nodes, float64 (M,), where ``links`` are only some of their links.

    Returns
    -------
    np.ndarray
        int64 (M,); communities have no more numbers than there are nodes, some of them unused.
    """
    degrees = links.sum(axis=1) if degrees is None else degrees
    nodes = len(links)
    of = np.eye(nodes)[communities]
    toward, weights = links @ of, degrees @ of  # links of nodes to communities; their degrees
    share = resolution / degrees.sum() * degrees
    communities = communities.copy()
    waiting, is_waiting = deque(rng.permutation(nodes).tolist()), np.ones(nodes, dtype=bool)
    while waiting:
        node = waiting.popleft()
        is_waiting[node] = False
        own = communities[node]
        gains = toward[node] - share[node] * weights
        gains[own] += share[node] * degrees[node] - links[node, node]  # a node is not its neighbour
        best = gains.argmax()
        if gains[best] <= gains[own] + _LEAST_GAIN:
            continue
        communities[node] = best
        weights[own] -= degrees[node]
        weights[best] += degrees[node]
        toward[:, own] -= links[node]
        toward[:, best] += links[node]
        others = np.flatnonzero((links[node] > 0) & (communities != best) & ~is_waiting)
        is_waiting[others] = True
        waiting.extend(others.tolist())
    return communities
