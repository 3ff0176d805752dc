"""Exact k-means of embeddings that stay in their labs.

Every step is one question: given centres, labs send per centre the number of their cells that are
nearest to it, the sum of these and their squared deviations. From the same starting centres the
iterations are Lloyd's on the pool, as ``KMeans(init=..., n_init=1, algorithm="lloyd")`` of
scikit-learn does them. No cell travels, but sums over few cells tell much: a lab with one cell
near a centre tells that cell's embedding to a server that sees single answers. Under secure
aggregation it sees totals alone.

Starts are found from sums too, in the way of Bradley & Fayyad (1998, "Refining initial points
for k-means clustering"), who cluster subsamples and then cluster the centres found. Here a
*sketch* stands for a subsample: the pool is cut into 2k groups by repeated splitting, ten times
with different random cuts, all in the same questions; the server then runs weighted k-means++ on
the means of the groups. Lloyd's algorithm goes on from the five best of these, again in the same
questions, and the clustering of least inertia stays. Nothing in it depends on which lab holds a
cell, except the last bits of sums.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedsc.errors import ConfigError, RunError
from fedsc.federated.bounds import Asked, Check, adds_up, finding, moments
from fedsc.federated.centres import (
    batches,
    check_by_centre,
    grow,
    mean_and_variance,
    nearest,
    sum_by_centre,
)
from fedsc.federated.query import Ask, Question, Sums, add
from fedsc.rng import derive_seed

MEAN = "kmeans-mean"
STEP = "kmeans-step"

_SKETCHES = 10
_FEWEST = 5  # cells of a group of a sketch that a centre may start from
_RUNS = 20  # of k-means++ on the sketches; they cost the server milliseconds and no question
_STARTS = 5  # on the pool, in the same questions


@dataclass(frozen=True)
class Centres:
    """A clustering of the pool, the largest cluster first, equal sizes in order of the centres.

    Attributes
    ----------
    centres
        float64 (k, d).
    sizes
        Cells of the pool nearest to each, int64 (k,); of :func:`lloyd`, 0 where fewer than k
        cells differ.
    inertia
        Sum of the squared distances of all cells to their nearest centre.
    iterations
        Of Lloyd's algorithm until the centres stood still.
    """

    centres: np.ndarray
    sizes: np.ndarray
    inertia: float
    iterations: int

    @property
    def singletons(self) -> int:
        """How many clusters are a single cell: outliers, most likely, not types."""
        return int((self.sizes == 1).sum())


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
    parts = [nearest(centres[None], batch)[:, 0] for batch in batches(x)]
    return np.concatenate(parts).astype(np.int32)


def sum_cells(x: np.ndarray, question: Question) -> Sums:
    """Count cells and sum them: ``n`` int64 (1,), ``sum`` Σx and ``squares`` Σx² float64 (d,)."""
    squares = np.einsum("ij,ij->j", x, x, dtype=np.float64)
    return {
        "n": np.array([len(x)], dtype=np.int64),
        "sum": x.sum(axis=0, dtype=np.float64),
        "squares": squares,
    }


def _answer_step(x: np.ndarray, question: Question) -> Sums:
    """Sum cells by their nearest centre; ``question`` holds ``centres`` float64 (sets, k, d)."""
    centres = question.arrays["centres"]
    return add(sum_by_centre(centres, batch) for batch in batches(x))


Report = Callable[[int, float, float], None]
"""Told the iterations done, the sum of the squared movements of the last, and where that ends."""

ANSWERS: dict[str, Callable[[np.ndarray, Question], Sums]] = {MEAN: sum_cells, STEP: _answer_step}


def learn_kmeans(ask: Ask, k: int, seed: int, report: Report | None = None) -> Centres:
    """Cluster the pool.

    Asks about 4 + log₁.₅(k) questions for the starts, then one per iteration and a last one.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    k
        Number of clusters, from 1 to the number of cells; there are fewer where fewer cells
        differ, as clusters without a cell are left out.
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

    def step(centres: np.ndarray) -> Sums:
        return ask(Question(STEP, {"centres": centres}))

    points, weights = grow(step, mean, _SKETCHES, 2 * k, seed)
    starts = _refine(points.reshape(-1, len(mean)), weights.ravel(), k, tolerance, seed)
    best = min(lloyd(ask, starts, tolerance, report=report), key=lambda run: run.inertia)
    some = best.sizes > 0  # no cell is near an empty centre, so leaving it out moves none
    return replace(best, centres=best.centres[some], sizes=best.sizes[some])


def lloyd(
    ask: Ask,
    starts: np.ndarray,
    tolerance: float,
    max_iterations: int = 300,
    report: Report | None = None,
) -> list[Centres]:
    """Iterate from each of several starts, in the same questions, until the centres stand still.

    A centre with no cell has no mean to move to. It takes half of the cluster with the largest
    inertia (the second such centre of the second largest, …): the two go one standard deviation
    to either side of the mean, along the dimension in which that cluster is widest. scikit-learn
    moves it to the farthest cell instead, which a sum cannot tell.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    starts
        Float64 (starts, k, d).
    tolerance
        Of the sum of the squared movements of all centres of a start; the others go on.
    max_iterations
        Go no further.
    report
        Told of every iteration, with the largest movement of any start.

    Returns
    -------
    list
        What each start led to.
    """
    centres = np.array(starts, dtype=np.float64)
    iterations = np.zeros(len(centres), dtype=np.int64)
    moving = np.arange(len(centres))
    while len(moving) and iterations.max() < max_iterations:
        sums = ask(Question(STEP, {"centres": centres[moving]}))
        moved = np.stack(
            [
                _move(centres[i], {name: array[j] for name, array in sums.items()})
                for j, i in enumerate(moving)
            ]
        )
        shifts = np.square(moved - centres[moving]).sum(axis=(1, 2))
        centres[moving] = moved
        iterations[moving] += 1
        if report is not None:
            report(int(iterations.max()), float(shifts.max()), tolerance)
        moving = moving[shifts > tolerance]
    sums = ask(Question(STEP, {"centres": centres}))
    found = []
    for i, (own, sizes) in enumerate(zip(centres, sums["n"], strict=True)):
        order = np.lexsort((*own.T[::-1], -sizes))
        inertia = float(sums["squares"][i].sum())
        found.append(Centres(own[order], sizes[order], inertia, int(iterations[i])))
    return found


def _move(centres: np.ndarray, sums: Sums) -> np.ndarray:
    """Move each centre to the mean of its cells, an empty one to half of a wide cluster."""
    mean, variance = mean_and_variance(centres, sums)
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


def _refine(
    points: np.ndarray, weights: np.ndarray, k: int, tolerance: float, seed: int
) -> np.ndarray:
    """Cluster the groups of all sketches by weighted k-means++, several times over.

    Groups of fewer than five cells are left out as long as k others remain: outliers are far
    from everything, so k-means++ would begin with them, and Lloyd's algorithm never gives up a
    centre that is alone with an outlier.

    Returns
    -------
    np.ndarray
        Different clusterings of the sketches, the best first, float64 (at most 5, k, d).
    """
    from sklearn.cluster import kmeans_plusplus

    enough = weights >= min(_FEWEST, np.sort(weights)[-k])
    points, weights = points[enough], weights[enough]

    def ask(question: Question) -> Sums:
        return sum_by_centre(question.arrays["centres"], points, weights)

    starts = [
        kmeans_plusplus(
            points,
            k,
            sample_weight=weights.astype(np.float64),
            random_state=derive_seed(seed, "kmeans-start", i) % 2**32,
        )[0]
        for i in range(_RUNS)
    ]
    runs = sorted(lloyd(ask, np.stack(starts), tolerance), key=lambda run: run.inertia)
    different = runs[:1]
    for run in runs[1:]:
        if run.inertia > different[-1].inertia * (1 + 1e-6):
            different.append(run)
    return np.stack([run.centres for run in different[:_STARTS]])


def check_sum(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`sum_cells`."""
    n = asked.n_cells
    return finding(
        adds_up("n", sums["n"], n),
        moments("embedding's", n, sums["sum"], sums["squares"], -asked.largest, asked.largest, 1.0),
    )


def check_step(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in sums about centres."""
    return check_by_centre(sums, asked, asked.largest)


CHECKS: dict[str, Check] = {MEAN: check_sum, STEP: check_step}
