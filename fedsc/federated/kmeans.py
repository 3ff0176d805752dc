"""Exact k-means of embeddings that stay in their labs.

Every step is one question: given centres, labs send per centre the number of their cells that are
nearest to it, the sum of these and their squared deviations. From the same starting centres the
iterations are Lloyd's on the pool, as ``KMeans(init=..., n_init=1, algorithm="lloyd")`` of
scikit-learn does them. No cell travels, but sums over few cells tell much: a lab with one cell
near a centre tells that cell's embedding to a server that sees single answers. Under secure
aggregation it sees totals alone.

The start is found from sums too, in the way of Bradley & Fayyad (1998, "Refining initial points
for k-means clustering"), who cluster subsamples and then cluster the centres found. Here a
*sketch* stands for a subsample: the pool is cut into 2k groups by repeated splitting, ten times
with different random cuts, all in the same questions; the server then runs weighted k-means++ on
the means of the groups. Nothing in it depends on which lab holds a cell, except the last bits of
sums.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.errors import ConfigError, RunError
from fedsc.federated.query import Ask, Question, Sums
from fedsc.rng import derive_seed, numpy_generator

MEAN = "kmeans-mean"
STEP = "kmeans-step"

_ROWS = 2048  # cells compared with the centres at a time
_SKETCHES = 10
_STARTS = 20  # of k-means++ on the sketches; they cost the server milliseconds and no question


@dataclass(frozen=True)
class Centres:
    """A clustering of the pool, the largest cluster first, equal sizes in order of the centres.

    Attributes
    ----------
    centres
        float64 (k, d).
    sizes
        Cells of the pool nearest to each, int64 (k,); 0 only when there are fewer than k
        different cells.
    inertia
        Sum of the squared distances of all cells to their nearest centre.
    iterations
        Of Lloyd's algorithm until the centres stood still.
    """

    centres: np.ndarray
    sizes: np.ndarray
    inertia: float
    iterations: int


def assign(centres: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give every cell its nearest centre, the first of equally near ones.

    Parameters
    ----------
    centres
        float (k, d).
    x
        Embedding, float (cells, d).

    Returns
    -------
    np.ndarray
        int32 (cells,).
    """
    clusters = np.empty(len(x), dtype=np.int32)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        clusters[rows] = _nearest(centres[None], x[rows].astype(np.float64))[:, 0]
    return clusters


def sum_cells(x: np.ndarray, question: Question) -> Sums:
    """Count cells and sum them: ``n`` int64 (1,), ``sum`` Σx and ``squares`` Σx² float64 (d,)."""
    squares = np.einsum("ij,ij->j", x, x, dtype=np.float64)
    return {
        "n": np.array([len(x)], dtype=np.int64),
        "sum": x.sum(axis=0, dtype=np.float64),
        "squares": squares,
    }


def sum_by_centre(x: np.ndarray, question: Question) -> Sums:
    """Sum cells by their nearest centre, for several sets of centres at once.

    Parameters
    ----------
    x
        Embedding, float (cells, d).
    question
        Holds ``centres``, float64 (sets, k, d).

    Returns
    -------
    Sums
        ``n`` int64 (sets, k); ``sum`` Σx and ``squares`` Σ(x − centre)² of every dimension,
        float64 (sets, k, d).
    """
    return _sum_by_centre(x, np.ones(len(x), dtype=np.int64), question.arrays["centres"])


Report = Callable[[int, float, float], None]
"""Told the iterations done, the sum of the squared movements of the last, and where that ends."""

ANSWERS: dict[str, Callable[[np.ndarray, Question], Sums]] = {MEAN: sum_cells, STEP: sum_by_centre}


def answer(x: np.ndarray, question: Question) -> Sums:
    """Answer one of the questions :func:`learn_kmeans` puts, from an embedding (cells, d).

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if question.name not in ANSWERS:
        raise ValueError(f"unknown question '{question.name}', known are {sorted(ANSWERS)}")
    return ANSWERS[question.name](x, question)


def learn_kmeans(ask: Ask, k: int, seed: int, report: Report | None = None) -> Centres:
    """Cluster the pool.

    Asks about 4 + log₁.₅(k) questions for the start, then one per iteration and a last one.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`answer`.
    k
        Number of clusters, from 1 to the number of cells.
    seed
        Moves the start.
    report
        Told of every iteration over the pool.

    Raises
    ------
    ConfigError
        If ``k`` is out of range.
    RunError
        If an embedding has values that are not finite.
    """
    sums = ask(Question(MEAN))
    n_cells = int(sums["n"][0])
    if not 1 <= k <= n_cells:
        raise ConfigError(f"k = {k}: must be from 1 to the number of cells, {n_cells}")
    mean = sums["sum"] / n_cells
    if not np.isfinite(mean).all():
        raise RunError("some lab's embedding has values that are not finite")
    variance = (sums["squares"] / n_cells - np.square(mean)).clip(min=0)
    tolerance = 1e-4 * float(variance.mean())  # scikit-learn's default
    points, weights = _sketch(ask, mean, 2 * k, seed)
    start = _cluster_sketch(points, weights, k, tolerance, seed)
    return lloyd(ask, start, tolerance, report=report)


def lloyd(
    ask: Ask,
    centres: np.ndarray,
    tolerance: float,
    max_iterations: int = 300,
    report: Report | None = None,
) -> Centres:
    """Iterate from given centres until they move by at most ``tolerance``.

    A centre with no cell has no mean to move to. It takes half of the cluster with the largest
    inertia (the second such centre of the second largest, …): the two go one standard deviation
    to either side of the mean, along the dimension in which that cluster is widest. scikit-learn
    moves it to the farthest cell instead, which a sum cannot tell.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`answer`.
    centres
        Where to start, float64 (k, d).
    tolerance
        Of the sum of the squared movements of all centres.
    max_iterations
        Go no further.
    report
        Told of every iteration.
    """
    iterations, shift = 0, np.inf
    while shift > tolerance and iterations < max_iterations:
        sums = ask(_step(centres[None]))
        moved = _move(centres, {name: array[0] for name, array in sums.items()})
        shift = float(np.square(moved - centres).sum())
        centres = moved
        iterations += 1
        if report is not None:
            report(iterations, shift, tolerance)
    sums = ask(_step(centres[None]))
    sizes = sums["n"][0]
    order = np.lexsort((*centres.T[::-1], -sizes))
    return Centres(centres[order], sizes[order], float(sums["squares"].sum()), iterations)


def _step(centres: np.ndarray) -> Question:
    return Question(STEP, {"centres": centres})


def _nearest(centres: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give each cell's nearest centre in each set, int (cells, sets)."""
    sets, k, d = centres.shape
    products = x @ centres.reshape(-1, d).T.astype(np.float64)
    # ‖x − c‖² without ‖x‖², which all centres of a set share
    distances = np.square(centres).sum(axis=2) - 2 * products.reshape(len(x), sets, k)
    return np.asarray(distances.argmin(axis=2))


def _sum_by_centre(x: np.ndarray, weights: np.ndarray, centres: np.ndarray) -> Sums:
    """As :func:`sum_by_centre`, each row counted ``weights`` times, int64 (cells,)."""
    sets, k, _ = centres.shape
    n = np.zeros((sets, k), dtype=np.int64)
    total, squares = np.zeros(centres.shape), np.zeros(centres.shape)
    for start in range(0, len(x), _ROWS):
        batch = x[start : start + _ROWS].astype(np.float64)
        weight = weights[start : start + _ROWS]
        for i, nearest in enumerate(_nearest(centres, batch).T):
            indicator = csr_matrix(
                (weight, (nearest, np.arange(len(batch)))), shape=(k, len(batch))
            )
            n[i] += np.asarray(indicator.sum(axis=1)).ravel()
            total[i] += indicator @ batch
            squares[i] += indicator @ np.square(batch - centres[i][nearest])
    return {"n": n, "sum": total, "squares": squares}


def _move(centres: np.ndarray, sums: Sums) -> np.ndarray:
    """Move each centre to the mean of its cells, an empty one to half of a wide cluster."""
    mean, variance = _mean_and_variance(centres, sums)
    empty = np.flatnonzero(sums["n"] == 0)
    widest = np.argsort(-sums["n"] * variance.sum(axis=1), kind="stable")
    for taker, giver in zip(empty, widest, strict=False):
        along = np.zeros_like(mean[giver])
        dimension = variance[giver].argmax()
        along[dimension] = np.sqrt(variance[giver, dimension])
        if along.any():
            mean[taker] = mean[giver] + along
            mean[giver] = mean[giver] - along
    return mean


def _mean_and_variance(centres: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Give the mean and variance of each group; the centre and 0 where it has no cell."""
    n = np.maximum(sums["n"], 1)[..., None]
    mean = np.where(sums["n"][..., None] > 0, sums["sum"] / n, centres)
    variance = sums["squares"] / n - np.square(mean - centres)
    return mean, np.where(sums["n"][..., None] > 1, variance, 0).clip(min=0)


def _sketch(ask: Ask, mean: np.ndarray, groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the pool into groups, several times over, by splitting the widest again and again.

    Each question finds the means of all groups (a step of Lloyd's) and then half of them are
    split, drawn in proportion to their inertia, along a direction drawn from their variances.

    Returns
    -------
    tuple
        Means of the groups, float64 (sketches · groups, d), and their sizes, int64.
    """
    generators = [numpy_generator(seed, "kmeans-sketch", i) for i in range(_SKETCHES)]
    centres = np.repeat(mean[None, None], _SKETCHES, axis=0)
    while True:
        sums = ask(_step(centres))
        means, variance = _mean_and_variance(centres, sums)
        have = means.shape[1]
        if have == groups:
            return means.reshape(-1, len(mean)), sums["n"].ravel()
        splits = min(max(1, have // 2), groups - have)
        inertia = sums["n"] * variance.sum(axis=2)
        new = np.empty((_SKETCHES, splits, len(mean)))
        for i, rng in enumerate(generators):
            # The smallest of exponential waiting times are a draw without replacement in
            # proportion to the rates; a group without spread waits for ever.
            waiting = np.full(have, np.inf)
            np.divide(rng.exponential(size=have), inertia[i], out=waiting, where=inertia[i] > 0)
            chosen = np.argsort(waiting, kind="stable")[:splits]
            along = np.sqrt(variance[i, chosen]) * rng.standard_normal((splits, len(mean)))
            new[i] = means[i, chosen] + along
            means[i, chosen] -= along
        centres = np.concatenate([means, new], axis=1)


def _cluster_sketch(
    points: np.ndarray, weights: np.ndarray, k: int, tolerance: float, seed: int
) -> np.ndarray:
    """Give the best of several runs of weighted k-means++ on the sketches, float64 (k, d)."""
    from sklearn.cluster import kmeans_plusplus

    def ask(question: Question) -> Sums:
        return _sum_by_centre(points, weights, question.arrays["centres"])

    runs = []
    for i in range(_STARTS):
        random_state = derive_seed(seed, "kmeans-start", i) % 2**32
        start, _ = kmeans_plusplus(
            points, k, sample_weight=weights.astype(np.float64), random_state=random_state
        )
        runs.append(lloyd(ask, start, tolerance))
    return min(runs, key=lambda run: run.inertia).centres
