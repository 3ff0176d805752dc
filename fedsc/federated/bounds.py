"""What sums over cells can be: the inequalities every honest answer keeps.

A module that answers questions holds, beside ``ANSWERS``, a function under the same name in
``CHECKS`` that says what is impossible in an answer; where answers that follow one another have to
agree, there is one in ``AGREEMENTS`` as well. ``answers.py`` puts them together. An answer is
checked before it is added to others, so that the lab that sent it is named, and no other.

All inequalities have slack for rounding. Within them a lab can lie still, but not about more
cells than it has or about values that none of its cells can have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsc.federated.query import Question, Sums

LARGEST = 1e6
"""Coordinates of an embedding, and standardised values without clipping, are not above it."""

_RELATIVE = 1e-6
_ROUNDING = 1e-9  # of a cell's largest value, for every cell


@dataclass(frozen=True)
class Asked:
    """What an answer is held against.

    Attributes
    ----------
    question
        That was put.
    n_cells
        Cells of the lab, as it described itself.
    largest
        No value of a prepared cell or an embedding is above it.
    """

    question: Question
    n_cells: int
    largest: float = LARGEST


Check = Callable[[Sums, Asked], str]
"""Say what in an answer is impossible; nothing when it is not."""

Agreement = Callable[[Sums, Asked, Sums, Asked], str]
"""Say in what an answer contradicts the one before it; nothing when it does not."""


def adds_up(name: str, counts: Any, n_cells: int) -> str:
    """Hold a total of counts against the lab's cells, each of which counts once."""
    wrong = np.asarray(counts != n_cells)
    return f"{name} adds up to {_first(counts, wrong)} of {n_cells} cells" if wrong.any() else ""


def at_most(name: str, values: Any, most: Any) -> str:
    """Hold values against the largest they can be."""
    values, most = np.broadcast_arrays(values, most)
    wrong = ~(values <= most + _RELATIVE * np.abs(most))  # NaN is wrong too
    if not wrong.any():
        return ""
    return f"{name} is {_first(values, wrong):.6g}, at most {_first(most, wrong):.6g} can be"


def at_least(name: str, values: Any, least: Any) -> str:
    """Hold values against the smallest they can be."""
    values, least = np.broadcast_arrays(values, least)
    wrong = ~(values >= least - _RELATIVE * np.abs(least))
    if not wrong.any():
        return ""
    return f"{name} is {_first(values, wrong):.6g}, at least {_first(least, wrong):.6g} must be"


def within(name: str, total: np.ndarray, n: Any, low: Any, high: Any) -> str:
    """Hold Σx of n values from ``low`` to ``high`` against what they can add up to."""
    n, low, high = np.asarray(n, dtype=np.float64), np.asarray(low), np.asarray(high)
    rounding = _ROUNDING * n * np.maximum(np.abs(low), np.abs(high))
    return at_most(name, total, n * high + rounding) or at_least(name, total, n * low - rounding)


def moments(
    name: str,
    n: Any,
    total: np.ndarray,
    squares: np.ndarray,
    low: Any,
    high: Any,
    size: Any = None,
) -> str:
    """Hold Σx and Σx² of n values from ``low`` to ``high`` against the range and each other.

    Parameters
    ----------
    name
        For the message.
    n, low, high
        Broadcast to the sums.
    total, squares
        Σx and Σx².
    size
        Magnitude of the values that rounding is relative to; the range's when not given.
    """
    n = np.asarray(n, dtype=np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    rounding = _ROUNDING * n * (largest if size is None else size)
    by_squares = np.sqrt(n * np.maximum(squares, 0)) * (1 + _RELATIVE) + rounding
    return (
        within(f"the {name} sum", total, n, low, high)
        or at_least(f"the {name} sum of squares", squares, -rounding)
        or at_most(f"the {name} sum of squares", squares, n * np.square(largest))
        or at_most(f"the {name} sum, for its squares,", np.abs(total), by_squares)
    )


def same(name: str, counts: np.ndarray, before: np.ndarray) -> str:
    """Hold counts against those of an earlier answer, which are the same cells'."""
    return "" if np.array_equal(counts, before) else f"{name} contradicts what it said before"


def finding(*findings: str) -> str:
    """Give the first finding, if there is any."""
    return next(filter(None, findings), "")


def _first(values: Any, where: np.ndarray) -> Any:
    return np.asarray(values)[where].flat[0]
