"""Exact medians of the pool: a median is no sum, a histogram is."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fedsc.federated.bounds import Asked, at_most, finding, same
from fedsc.federated.query import Ask, Question, Sums

_EDGES = 2**16
_INFINITY = int(np.float64(np.inf).view(np.int64))


def histograms(values: Mapping[str, np.ndarray], question: Question) -> Sums:
    """Count a lab's values between the edges that :func:`learn_medians` asks about.

    Parameters
    ----------
    values
        By quantity, float64 (values,), none negative.
    question
        Holds, by quantity asked about, ascending int64 edges (E,): bit patterns of doubles. Read
        as integers, doubles that are not negative keep their order.

    Returns
    -------
    Sums
        By quantity asked about, int64 (E − 1,).
    """
    counts = {}
    for name in (name for name in values if name in question.arrays):
        edges = question.arrays[name]
        places = np.searchsorted(edges, values[name].view(np.int64), side="right")
        counts[name] = np.bincount(places, minlength=len(edges) + 1)[1:-1].astype(np.int64)
    return counts


def learn_medians(ask: Ask, question: Question, quantities: Sequence[str]) -> dict[str, float]:
    """Find exact medians over the pool, as ``np.median``, in four questions for all of them.

    The two middle order statistics are searched for in the bit patterns of float64: each question
    splits the interval of each into 2¹⁶, so that four questions leave one number of 2⁶³.

    Parameters
    ----------
    ask
        Answers by :func:`histograms`.
    question
        What to ask; the edges are added to its arrays.
    quantities
        Names of what is wanted; at most 2¹⁷ + 4 edges go out for each, 1 MiB.

    Returns
    -------
    dict
        By quantity; NaN where no lab has a value.
    """
    middles = {name: [(0, _INFINITY)] * 2 for name in quantities}
    medians, odd = dict.fromkeys(quantities, math.nan), {}
    while any(high - low > 1 for pair in middles.values() for low, high in pair):
        edges = {name: _edges(pair) for name, pair in middles.items()}
        for name, counts in ask(Question(question.name, {**question.arrays, **edges})).items():
            up_to = np.cumsum(counts)
            n = int(up_to[-1])
            if n == 0:
                del middles[name]
                continue
            odd[name] = n % 2 == 1
            bins = np.searchsorted(up_to, [(n - 1) // 2, n // 2], side="right")
            middles[name] = [(int(edges[name][i]), int(edges[name][i + 1])) for i in bins]
    for name, pair in middles.items():
        lows = np.array([low for low, _ in pair]).view(np.float64)
        # Of an odd number there is one middle: the mean of two could overflow.
        medians[name] = float(lows[0] if odd[name] else np.mean(lows))
    return medians


def _edges(pair: Sequence[tuple[int, int]]) -> np.ndarray:
    """Cut both intervals, of which the second is the first or lies beyond it; int64, ascending."""
    inner = [_split(*one) for one in dict.fromkeys(pair)]
    edges = np.concatenate([[0], *inner, [_INFINITY]])
    return edges[np.diff(edges, prepend=-1) > 0]


def _split(low: int, high: int) -> np.ndarray:
    """Cut [low, high) into at most 2¹⁶ intervals of whole numbers; int64."""
    step = -(-(high - low) // _EDGES)
    return np.append(np.arange(low, high, step, dtype=np.int64), high)


def check_histograms(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`histograms`: a cell has one value or none."""
    return finding(*(at_most(f"the total of {n}", c.sum(), asked.n_cells) for n, c in sums.items()))


def agree_on_histograms(sums: Sums, asked: Asked, before: Sums, asked_before: Asked) -> str:
    """Say in what histograms contradict those over other edges: below an edge lie the same cells.

    Answers that contradict each other could send the search for a median in a circle.
    """
    now, then = asked.question.arrays, asked_before.question.arrays
    if any(not np.array_equal(now[name], then[name]) for name in now.keys() - sums.keys()):
        return ""  # of other quantities
    findings = []
    for name in sums.keys() & before.keys():
        _, i, j = np.intersect1d(now[name], then[name], return_indices=True)
        below = [np.concatenate([[0], np.cumsum(counts[name])]) for counts in (sums, before)]
        findings.append(same(f"the histogram of {name}", below[0][i], below[1][j]))
    return finding(*findings)
