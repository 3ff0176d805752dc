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

LARGEST_STATISTIC = 1e9
"""Batch-norm statistics are not above it: of inputs ± 1000 they stay below a million."""


def distance(start: Arrays, update: Arrays) -> float:
    """Compute ‖update − start‖₂ over the parameters; batch-norm statistics do not count."""
    moves = (
        np.subtract(update[name], tensor, dtype=np.float64).ravel()
        for name, tensor in start.items()
        if not is_buffer(name)
    )
    return math.sqrt(math.fsum(float(np.square(move, out=move).sum()) for move in moves))


def bad_weights(start: Arrays, update: Arrays) -> str:
    """Say what makes an update impossible by itself; nothing when it is not.

    Parameters
    ----------
    start
        Where the lab began.
    update
        Finite, of the same names and shapes. A running variance may be 0: that of a unit that
        never fires decays until float32 has no smaller number.
    """
    for name in filter(is_buffer, update):
        if name.endswith(".running_var") and (update[name] < 0).any():
            return f"{name} is negative"
        if (np.abs(update[name]) > LARGEST_STATISTIC).any():
            return f"{name} is above {LARGEST_STATISTIC:.0e}"
    nothing = {name: np.zeros((), dtype=tensor.dtype) for name, tensor in start.items()}
    moved, most = distance(start, update), MOST_TIMES_START * max(1.0, distance(nothing, start))
    if moved > most:
        return f"its weights moved by {moved:.3g}, no training moves them by more than {most:.3g}"
    return ""


def too_far(moved: Mapping[str, float], steps: Mapping[str, int]) -> dict[str, str]:
    """Name the labs whose weights moved far more than those of the others.

    Parameters
    ----------
    moved
        ‖update − start‖₂, by lab.
    steps
        Steps of an epoch, by lab: a lab with more cells takes more of them and moves farther.

    Returns
    -------
    dict of str to str
        Reason, by lab.
    """
    if not moved:
        return {}
    median, usual = float(np.median(list(moved.values()))), float(np.median(list(steps.values())))
    found = {}
    for lab, own in moved.items():
        most = MOST_TIMES_MEDIAN * median * max(1.0, steps[lab] / usual)
        if own > most > 0:
            found[lab] = (
                f"its weights moved by {own:.3g}, the median of the round is {median:.3g} and the "
                f"most for its cells {most:.3g}"
            )
    return found
