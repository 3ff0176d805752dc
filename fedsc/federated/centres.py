"""What k-means and micro-clusterings are made of: sums about centres, and groups that split.

Groups grow by repeated splitting, in several *sets* with different random cuts, all in the same
questions. Which groups split is drawn in proportion to their cells. In proportion to their
inertia, few outliers would take most centres.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.federated.bounds import Asked, adds_up, finding, moments
from fedsc.federated.query import Sums
from fedsc.rng import numpy_generator

_ROWS = 2048  # cells summed at a time
_DISTANCES = 2**17  # held at a time, 1 MB


def batches(x: np.ndarray) -> Iterator[np.ndarray]:
    """Give cells in float64, some at a time; of no cells a single batch without any.

    What is summed of an empty batch has the names, shapes and types of every other.
    """
    for start in range(0, max(len(x), 1), _ROWS):
        yield x[start : start + _ROWS].astype(np.float64)


def nearest(centres: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give each cell's nearest centre in each set, the first of equally near ones.

    Parameters
    ----------
    centres
        float64 (sets, k, d).
    x
        float64 (cells, d).

    Returns
    -------
    np.ndarray
        int (cells, sets).
    """
    sets, k, d = centres.shape
    # ‖x − c‖² without ‖x‖², which all centres of a set share; some rows at a time, since the
    # distances are the largest array of all and the caches of a processor are small
    twice = -2 * centres.reshape(-1, d).T.astype(np.float64)
    squares = np.square(centres).sum(axis=2)
    found = np.empty((len(x), sets), dtype=np.int64)
    rows = max(1, _DISTANCES // (sets * k))
    for start in range(0, len(x), rows):
        distances = (x[start : start + rows] @ twice).reshape(-1, sets, k)
        distances += squares
        distances.argmin(axis=2, out=found[start : start + rows])
    return found


def sum_by_centre(centres: np.ndarray, x: np.ndarray, weights: np.ndarray | None = None) -> Sums:
    """Sum cells by their nearest centre, for several sets of centres at once.

    Parameters
    ----------
    centres
        float64 (sets, k, d).
    x
        float64 (cells, d); a batch, all of it is worked on at once.
    weights
        How often each cell counts, int64 (cells,); once when not given.

    Returns
    -------
    Sums
        ``n`` int64 (sets, k); ``sum`` Σx and ``squares`` Σ(x − centre)² of every dimension,
        float64 (sets, k, d).
    """
    sets, k, d = centres.shape
    weights = np.ones(len(x), dtype=np.int64) if weights is None else weights
    # One product for all sets: a group's row has a one at each of its cells, in their order.
    own = (nearest(centres, x) + k * np.arange(sets)).T.ravel()
    indicator = csr_matrix(
        (np.tile(weights, sets), (own, np.arange(len(own)))), shape=(sets * k, len(own))
    )
    cells = np.tile(x, (sets, 1))
    n = np.asarray(indicator.sum(axis=1)).reshape(sets, k)
    total = (indicator @ cells).reshape(centres.shape)
    cells -= centres.reshape(-1, d)[own]
    squares = (indicator @ np.square(cells)).reshape(centres.shape)
    return {"n": n, "sum": total, "squares": squares}


def mean_and_variance(centres: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Give the mean and variance of each group; the centre and 0 where it has no cell.

    Parameters
    ----------
    centres
        What the sums are about, float64 (..., k, d).
    sums
        Of :func:`sum_by_centre`.
    """
    n = np.maximum(sums["n"], 1)[..., None]
    mean = np.where(sums["n"][..., None] > 0, sums["sum"] / n, centres)
    variance = sums["squares"] / n - np.square(mean - centres)
    return mean, np.where(sums["n"][..., None] > 1, variance, 0).clip(min=0)


def grow(
    step: Callable[[np.ndarray], Sums], mean: np.ndarray, sets: int, groups: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the pool into groups, several times over, by splitting groups again and again.

    Each question finds the means of all groups (a step of Lloyd's), then half of them are split
    along a direction drawn from their variances.

    Parameters
    ----------
    step
        Asks for :func:`sum_by_centre` of the pool.
    mean
        Of the pool, float64 (d,).
    sets
        How many times, each with draws of its own.
    groups
        How many groups are wanted in each set.
    seed
        Moves the cuts.

    Returns
    -------
    tuple
        Means of the groups, float64 (sets, groups, d), and their cells, int64 (sets, groups).
    """
    generators = [numpy_generator(seed, "grow", i) for i in range(sets)]
    centres = np.repeat(mean[None, None], sets, axis=0)
    while True:
        sums = step(centres)
        means, variance = mean_and_variance(centres, sums)
        have = means.shape[1]
        if have == groups:
            return means, sums["n"]
        splits = min(max(1, have // 2), groups - have)
        rates = np.where(variance.any(axis=2), sums["n"], 0)
        new = np.empty((sets, splits, len(mean)))
        for i, rng in enumerate(generators):
            # The smallest of exponential waiting times are a draw without replacement in
            # proportion to the rates; a group without spread waits for ever.
            waiting = np.full(have, np.inf)
            np.divide(rng.exponential(size=have), rates[i], out=waiting, where=rates[i] > 0)
            chosen = np.argsort(waiting, kind="stable")[:splits]
            along = np.sqrt(variance[i, chosen]) * rng.standard_normal((splits, len(mean)))
            new[i] = means[i, chosen] + along
            means[i, chosen] -= along
        centres = np.concatenate([means, new], axis=1)


def check_by_centre(sums: Sums, asked: Asked, largest: float) -> str:
    """Say what is impossible in an answer of :func:`sum_by_centre`.

    Parameters
    ----------
    sums
        The answer.
    asked
        Holds ``centres``, float64 (sets, k, d).
    largest
        No coordinate of a cell is above it.
    """
    centres, n = asked.question.arrays["centres"], sums["n"][..., None]
    return finding(
        adds_up("n", sums["n"].sum(axis=-1), asked.n_cells),
        moments(
            "centred",
            n,
            sums["sum"] - n * centres,
            sums["squares"],
            -largest - centres,
            largest - centres,
            1 + np.abs(centres),
        ),
    )
