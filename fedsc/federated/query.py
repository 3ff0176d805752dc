"""How the server learns about data it never sees: it asks, every lab answers with sums.

A :class:`Question` goes to every lab; an answer is a dict of arrays over the lab's own cells such
that adding the answers of two labs gives the answer of their pooled cells. Server-side functions
take an :data:`Ask` and know nothing of transport, so the same code runs over Flower, in a test
over a list, and later under secure aggregation.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from fedsc.tensors import by_owner

SEVERAL = "several"
"""Name of a question that is several, none of which depends on the answer to another."""

Sums = dict[str, np.ndarray]
"""Named arrays that add up over labs: float64, int64, or smaller integers that cannot overflow."""


@dataclass(frozen=True)
class Question:
    """What the server wants to know.

    Attributes
    ----------
    name
        Which statistic, e.g. ``"gene-sums"``; the lab looks its answer function up by it.
    arrays
        What the statistic depends on (bin edges, means, centres, …); numbers only, so names are
        the bytes of their text, one a line.
    """

    name: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def as_array(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Write names, one or more without line breaks, as a question holds them: uint8 (bytes,)."""
    return np.frombuffer("\n".join(names).encode(), dtype=np.uint8)


def as_names(array: np.ndarray) -> list[str]:
    """Read what :func:`as_array` wrote."""
    return array.tobytes().decode().split("\n")


Ask = Callable[[Question], Sums]
"""Ask every lab and add up the answers, in the order of the labs' names."""

Lab = TypeVar("Lab")


def add(answers: Iterable[Sums]) -> Sums:
    """Add the answers of several labs, or batches of cells, in the given order.

    Raises
    ------
    ValueError
        If there is no answer, or two answers differ in names or shapes.
    """
    remaining = iter(answers)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no answers to add")
    total = {name: array.copy() for name, array in first.items()}
    for answer in remaining:
        if answer.keys() != total.keys():
            raise ValueError(f"answers differ: {sorted(total)} and {sorted(answer)}")
        for name, array in answer.items():
            if array.shape != total[name].shape:
                raise ValueError(f"{name}: shapes {total[name].shape} and {array.shape}")
            total[name] += array
    return total


def together(ask: Ask, *questions: Question) -> Ask:
    """Put several questions in one message, and give an :data:`Ask` that knows their answers.

    Parameters
    ----------
    ask
        Puts the one question.
    questions
        Of different names, about the same subject; arrays of the same name are equal, and
        travel once. None that is held against an earlier answer of the same lab.

    Raises
    ------
    ValueError
        If two questions give an array of the same name other values.
    """
    arrays = {"questions": as_array([question.name for question in questions])}
    for question in questions:
        for name, array in question.arrays.items():
            if not np.array_equal(arrays.setdefault(name, array), array):
                raise ValueError(f"'{question.name}' differs from the others in {name}")
    told = by_owner(ask(Question(SEVERAL, arrays)))
    return lambda question: told[question.name]


def parts(question: Question) -> list[Question]:
    """Give the questions that one is: those of :func:`together`, or itself."""
    if question.name != SEVERAL:
        return [question]
    arrays = dict(question.arrays)
    names = as_names(arrays.pop("questions"))
    return [Question(name, arrays) for name in names]


def ask_locally(labs: Sequence[Lab], answer: Callable[[Lab, Question], Sums]) -> Ask:
    """Make an :data:`Ask` over labs that live in this process (tests, notebooks, baselines)."""
    return lambda question: add([answer(lab, question) for lab in labs])
