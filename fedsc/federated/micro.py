"""Micro-clusterings of the pool: many small groups that stand for its cells.

Cells are compared by direction, so everything here is about unit vectors u = x / ‖x‖. The pool is
cut into about 2√n groups, four times over with different random cuts. A cell belongs softly to
the three nearest centres of each cutting. What is built on these weights (the graph, the map)
needs no cell: neither the server nor another lab ever sees one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.errors import RunError
from fedsc.federated.bounds import Asked, Check, adds_up, at_least, at_most, finding, within
from fedsc.federated.centres import batches, check_by_centre, grow, mean_and_variance, sum_by_centre
from fedsc.federated.query import Ask, Question, Sums, add

MEAN = "micro-mean"
STEP = "micro-step"
SCALE = "micro-scale"

_SETS = 4
MOST = 256
"""Centres in a set, at most."""

_STEPS = 3  # of Lloyd's algorithm, once all centres are there
_FEWEST = 5  # cells of the pool that are nearest to a centre worth keeping
_NEAREST = 3  # centres of a set that a cell belongs to

_SMALLEST_SCALE = 1e-12  # of equal cells; squared distances of unit vectors err by some 1e-16

_UNIT = 2.0**-15
"""Weights are multiples of this. Sums of products of two of them are then exact in float64 up to
2²³ cells, so the graph is the same to the last bit however the cells lie in labs and batches."""


@dataclass(frozen=True)
class MicroCentres:
    """Micro-clusterings of the pool.

    Attributes
    ----------
    centres
        Means of unit vectors, float64 (M, d), set after set.
    sets
        Which micro-clustering each is from, int64 (M,), ascending from 0 without a gap.
    scale
        Mean of d² − d₁², over cells and the nearest centres of each set, where d₁ is the distance
        to the nearest; > 0.
    """

    centres: np.ndarray
    sets: np.ndarray
    scale: float

    def arrays(self) -> dict[str, np.ndarray]:
        """Give what a lab needs to compute weights, as a question holds it."""
        return {"centres": self.centres, "sets": self.sets, "scale": np.array([self.scale])}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "MicroCentres":
        """Read what :meth:`arrays` gave."""
        return cls(arrays["centres"], arrays["sets"], float(arrays["scale"][0]))


def unit(x: np.ndarray) -> np.ndarray:
    """Divide every row by its length, float64 (cells, d); a row of zeros stays."""
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, length, out=np.zeros(x.shape), where=length != 0))


def weigh(micro: MicroCentres, x: np.ndarray) -> csr_matrix:
    """Give cells their soft weights Z: how much they belong to each centre.

    w = exp(−(d² − d₁²) / scale) over the three nearest centres of a set, scaled to sum to 1; Z is
    the mean over sets.

    Parameters
    ----------
    micro
        The centres.
    x
        Embedding, float (cells, d); a batch, all of it is worked on at once.

    Returns
    -------
    csr_matrix
        float64 (cells, M), rows sum to 1.
    """
    nearest, excess = _nearest(micro.centres, micro.sets, unit(x))
    weights = np.exp(-excess / micro.scale)
    weights /= weights.sum(axis=2, keepdims=True)
    weights = np.round(weights / _UNIT) * _UNIT
    weights[:, :, 0] += 1 - weights.sum(axis=2)
    cells, sets, m = weights.shape
    starts = np.arange(cells + 1) * sets * m
    values = (weights / sets).ravel()
    return csr_matrix((values, nearest.ravel(), starts), shape=(cells, len(micro.centres)))


def _sum_cells(x: np.ndarray, question: Question) -> Sums:
    """Count cells and sum their unit vectors: ``n`` int64 (1,), ``sum`` float64 (d,)."""
    total = sum((unit(batch).sum(axis=0) for batch in batches(x)), start=np.zeros(x.shape[1]))
    return {"n": np.array([len(x)], dtype=np.int64), "sum": total}


def _sum_by_centre(x: np.ndarray, question: Question) -> Sums:
    """Answer as the step of k-means, about unit vectors."""
    centres = question.arrays["centres"]
    return add(sum_by_centre(centres, unit(batch)) for batch in batches(x))


def _sum_excess(x: np.ndarray, question: Question) -> Sums:
    """Sum d² − d₁² over cells and the nearest centres of each set: ``excess`` float64 (1,)."""
    centres, sets = question.arrays["centres"], question.arrays["sets"]
    parts = (_nearest(centres, sets, unit(batch))[1].sum() for batch in batches(x))
    return {"excess": np.array([sum(parts)], dtype=np.float64)}


ANSWERS: dict[str, Callable[[np.ndarray, Question], Sums]] = {
    MEAN: _sum_cells,
    STEP: _sum_by_centre,
    SCALE: _sum_excess,
}


def learn_micro(ask: Ask, seed: int, most: int = MOST) -> MicroCentres:
    """Cut the pool into micro-clusters, in about 6 + log₁.₅(2√n) questions.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS` from an embedding (cells, d).
    seed
        Moves the cuts.
    most
        Centres in a set, at most; with n cells there are 2√n if that is less.

    Raises
    ------
    RunError
        If the labs hold no cell, or an embedding has values that are not finite.
    """

    def step(centres: np.ndarray) -> Sums:
        return ask(Question(STEP, {"centres": centres}))

    sums = ask(Question(MEAN))
    n_cells = int(sums["n"][0])
    if n_cells < 1:
        raise RunError("the labs hold no cell to cluster")
    mean = sums["sum"] / n_cells
    if not np.isfinite(mean).all():
        raise RunError("some lab's embedding has values that are not finite")
    k = min(round(2 * np.sqrt(n_cells)), most)
    centres, _ = grow(step, mean, _SETS, k, seed)
    for _ in range(_STEPS):
        centres, _ = mean_and_variance(centres, step(centres))
    sizes = step(centres)["n"]
    kept = sizes >= np.minimum(_FEWEST, sizes.max(axis=1, keepdims=True))
    sets, centres = np.nonzero(kept)[0], centres[kept]
    excess = ask(Question(SCALE, {"centres": centres, "sets": sets}))["excess"][0]
    scale = float(excess) / (_NEAREST * _SETS * n_cells)
    return MicroCentres(centres, sets, max(scale, _SMALLEST_SCALE))


def _nearest(centres: np.ndarray, sets: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each cell's nearest centres in each set, nearest first, and d² − d₁².

    Returns
    -------
    tuple
        int and float64, both (cells, sets, m) with m = 3, or less in the smallest of pools, where
        some set has fewer centres.
    """
    sizes = np.bincount(sets)
    m = min(_NEAREST, int(sizes.min()))
    rows = np.arange(len(u))
    nearest = np.empty((len(u), len(sizes), m), dtype=np.int64)
    distances = np.empty(nearest.shape)
    for i, end in enumerate(np.cumsum(sizes)):
        start = end - sizes[i]
        own = centres[start:end]
        # ‖u − c‖² without ‖u‖², which does not change a difference
        squares = np.square(own).sum(axis=1) - 2 * u @ own.T
        for j in range(m):
            first = squares.argmin(axis=1)
            nearest[:, i, j], distances[:, i, j] = start + first, squares[rows, first]
            squares[rows, first] = np.inf
    return nearest, distances - distances[:, :, :1]


def check_sum(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in a sum of unit vectors."""
    n = asked.n_cells
    return finding(
        adds_up("n", sums["n"], n),
        within("sum", sums["sum"], n, -1.0, 1.0),
        at_most("the length of sum", np.linalg.norm(sums["sum"]), n),
    )


def check_step(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in sums of unit vectors about centres."""
    return check_by_centre(sums, asked, 1.0)


def check_excess(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in a sum of d² − d₁², of three centres in every set."""
    arrays, excess = asked.question.arrays, sums["excess"]
    farthest = (1 + np.linalg.norm(arrays["centres"], axis=1).max()) ** 2
    terms = asked.n_cells * (int(arrays["sets"].max()) + 1) * (_NEAREST - 1)
    return finding(
        at_least("excess", excess, -1e-9 * terms), at_most("excess", excess, terms * farthest)
    )


CHECKS: dict[str, Check] = {MEAN: check_sum, STEP: check_step, SCALE: check_excess}
