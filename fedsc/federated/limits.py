"""How far a round may move a lab's weights: what no training does is no update.

Finite weights of any size would pass round 1, spoil the average and make every lab fail in round
2, from the only checkpoint there is.
"""

import math
from collections.abc import Mapping

import numpy as np

from fedsc.federated.averaging import Arrays
from fedsc.models.names import is_buffer

MOST_TIMES_START = 10.0
"""The norm of (update − start) is at most this many times the norm of the start, and of 1."""

MOST_TIMES_MEDIAN = 10.0
"""It is at most this many times the median norm of the round, more for more steps of training."""

MOST_FOR_STEPS = 10.0
"""More steps allow at most this much more: how many there were is what the lab says of its cells.

In the first round of ``fedsc`` on 10x PBMC a lab of 34 times the steps moved 6 times as far, one of
408 times the steps 9 times.
"""

NEVER_FAR = 0.1
"""Less than this share of the norm of the start is never far, whatever the others do.

Late in training three of four labs may hardly move. In the paper's first experiment an honest lab
then moved ten times as far as they did: by a fiftieth of its weights' norm.
"""

LARGEST_STATISTIC = 1e9
"""Batch-norm statistics are not above it: of inputs ± 1000 they stay below a million."""


def distance(start: Arrays, update: Arrays) -> float:
    """Compute ‖update − start‖₂ over the parameters; batch-norm statistics do not count.

    In float32: it is held against limits of a factor of ten, and beyond its range is infinity.
    """
    total, scratch = 0.0, np.empty(_BLOCK, dtype=np.float32)
    with np.errstate(over="ignore"):
        for name, tensor in start.items():
            if is_buffer(name):
                continue
            here, there = tensor.reshape(-1), update[name].reshape(-1)
            for first in range(0, len(here), _BLOCK):
                block = slice(first, first + _BLOCK)
                move = scratch[: len(here[block])]
                np.subtract(there[block], here[block], out=move)
                total += float(np.square(move, out=move).sum())
    return math.sqrt(total)


def squares(a: np.ndarray, b: np.ndarray) -> float:
    """Sum the squares of a − b in float64, to the bits of ``numpy.sum``.

    Not a BLAS dot product: its bits depend on how many threads happen to be free.
    """
    return _squares(a.reshape(-1), b.reshape(-1), np.empty((2, min(a.size, _BLOCK))))


def _squares(a: np.ndarray, b: np.ndarray, scratch: np.ndarray) -> float:
    if len(a) <= _BLOCK:
        # Cast as a whole: what NumPy casts on the way, it casts in small pieces.
        difference, subtracted = scratch[:, : len(a)]
        difference[...], subtracted[...] = a, b
        difference -= subtracted
        return float(np.square(difference, out=difference).sum())
    half = len(a) // 2
    half -= half % 8  # where NumPy, too, divides what it adds in pairs
    return _squares(a[:half], b[:half], scratch) + _squares(a[half:], b[half:], scratch)


_BLOCK = 2**14  # of which all that is in between stays in the processor's cache


def bad_weights(start: Arrays, update: Arrays, moved: float) -> str:
    """Say what makes an update impossible by itself; nothing when it is not.

    Parameters
    ----------
    start
        Where the lab began.
    update
        Finite, of the same names and shapes. A running variance may be 0: that of a unit that
        never fires decays until float32 has no smaller number.
    moved
        Their :func:`distance`.
    """
    for name in filter(is_buffer, update):
        if name.endswith(".running_var") and (update[name] < 0).any():
            return f"{name} is negative"
        if (np.abs(update[name]) > LARGEST_STATISTIC).any():
            return f"{name} is above {LARGEST_STATISTIC:.0e}"
    if moved <= MOST_TIMES_START:
        return ""
    most = MOST_TIMES_START * max(1.0, _norm(start))
    if moved > most:
        return f"its weights moved by {moved:.3g}, no training moves them by more than {most:.3g}"
    return ""


def _norm(weights: Arrays) -> float:
    return distance({name: np.zeros_like(tensor) for name, tensor in weights.items()}, weights)


def too_far(
    moved: Mapping[str, float], steps: Mapping[str, int], starts: Mapping[str, Arrays]
) -> dict[str, str]:
    """Name the labs whose weights moved far, and far more than those of the others.

    Parameters
    ----------
    moved
        ‖update − start‖₂, by lab.
    steps
        Steps of an epoch, by lab: a lab with more cells takes more of them and moves farther.
    starts
        Weights they started from, by lab.

    Returns
    -------
    dict of str to str
        Reason, by lab; none of one or two labs, as nobody can say which of two is wrong.
    """
    found: dict[str, str] = {}
    if len(moved) < 3:
        return found
    median, usual = float(np.median(list(moved.values()))), float(np.median(list(steps.values())))
    for lab, own in moved.items():
        most = MOST_TIMES_MEDIAN * median * min(max(1.0, steps[lab] / usual), MOST_FOR_STEPS)
        if own > most and own > NEVER_FAR * _norm(starts[lab]):
            found[lab] = (
                f"its weights moved by {own:.3g}, the median of the round is {median:.3g} and the "
                f"most for its cells {most:.3g}"
            )
    return found
