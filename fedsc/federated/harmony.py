"""Harmony over embeddings that stay in their labs: cells of different techniques come together.

Harmony (Korsunsky et al. 2019, "Fast, sensitive and accurate integration of single-cell data with
Harmony") clusters all cells softly, with a penalty on clusters that few batches share, and then
moves each batch's part of a cluster towards what the batches have in common; both, again and
again. A lab is a batch, or holds several. Everything the server needs is a sum over labs: it
learns how much of the pool is in each cluster, never of which lab. A lab's own correction, like
its share of a cluster, never leaves it.

The correction is a ridge regression per cluster on an intercept β0 and one offset β_b per batch,
ridge λ_b on the offsets alone. With S_b = Σ r·x and O_b = Σ r over the batch's cells, r their
membership of the cluster, setting the derivatives to zero gives

    β_b = (S_b − O_b·β0) / (O_b + λ_b)
    β0  = Σ_b u_b·S_b / Σ_b u_b·O_b        with u_b = λ_b / (O_b + λ_b)

so two more sums fix β0, and each lab finds its β_b alone.

Two things differ from the reference implementation, which moves cells in blocks of a twentieth
and updates the totals in between: here all cells move at once, with the totals of the last step.
So the penalty is damped by half, and it compares with E/(O + E), not E/O; without these the
steps swing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path

import numpy as np

from fedsc.data.reading.kept import Embedder, read_kept
from fedsc.errors import DataError, RunError
from fedsc.federated import micro
from fedsc.federated.centres import grow, mean_and_variance
from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony_lab import (
    CLUSTER,
    CORRECT,
    INTERCEPT,
    chained,
    fit_later,
)
from fedsc.federated.micro import unit
from fedsc.federated.query import Ask, Question, Sums

HARMONY = "integration.safetensors"

ROUNDS = 10  # at most, of clustering and correction
CLUSTER_STEPS = 4  # in a round
TOLERANCE = 1e-3  # stop when Σ‖change‖² / Σ‖x‖² of a round is below
_START_STEPS = 5  # of k-means
_CELLS_PER_CLUSTER = 30
_MOST_CLUSTERS = 100
_TINY = np.finfo(np.float64).tiny

Report = Callable[[int, float, float], None]
"""Told the rounds done, how far the last moved the cells, and where that ends."""


@dataclass(frozen=True)
class Harmony:
    """What the server keeps: enough to let another lab find its correction later.

    Attributes
    ----------
    questions
        All that were put after the start, in their order.
    moved
        Σ‖change‖² / Σ‖x‖² of each round, float64 (rounds,).
    """

    questions: tuple[Question, ...]
    moved: np.ndarray

    @cached_property
    def name(self) -> str:
        """Of this integration: what a lab that answered all its questions has last in its state."""
        asked: tuple[str, ...] = reduce(chained, self.questions, ())
        return asked[-1]

    @property
    def centres(self) -> np.ndarray:
        """Of the clusters in the last round, unit vectors, float64 (K, d)."""
        last = [question for question in self.questions if question.name == CLUSTER][-1]
        return last.arrays["centres"]

    @property
    def dimensions(self) -> int:
        """Columns of the embedding it moves."""
        return int(self.centres.shape[1])

    @property
    def converged(self) -> bool:
        """Whether the last round moved cells by less than the tolerance."""
        return bool(self.moved[-1] < TOLERANCE)

    def arrays(self) -> dict[str, np.ndarray]:
        """Give everything as named arrays, to be kept as safetensors."""
        named = {"moved": self.moved}
        for i, question in enumerate(self.questions):
            named |= {f"{i:03d}.{question.name}.{key}": a for key, a in question.arrays.items()}
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Harmony":
        """Undo :meth:`arrays`, whoever made them.

        Raises
        ------
        DataError
            If these are not such arrays.
        """
        questions: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        try:
            for place in sorted(arrays.keys() - {"moved"}):
                i, name, key = place.split(".")
                questions.setdefault((i, name), {})[key] = arrays[place]
            asked = tuple(Question(name, found) for (_, name), found in questions.items())
            _check(asked, arrays["moved"])
            return cls(asked, arrays["moved"])
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(f"the kept integration is damaged ({error})") from error

    def correct_new_lab(self, x: np.ndarray) -> np.ndarray:
        """Correct the cells of a lab that was not there, as one batch; the others' stay.

        Parameters
        ----------
        x
            Embedding before integration, float (cells, d).
        """
        cells = BatchedCells(x, np.zeros(len(x), dtype=np.int64))
        return fit_later(cells, self.questions).corrected


def load_harmony(folder: Path, model: Embedder) -> Harmony | None:
    """Load the integration of a finished run, as :func:`~fedsc.data.reading.kept.read_kept`."""
    return read_kept(folder / HARMONY, lambda arrays, _: Harmony.from_arrays(arrays), model)


_ROUND = (CLUSTER,) * CLUSTER_STEPS + (INTERCEPT, CORRECT)


def _check(questions: Sequence[Question], moved: np.ndarray) -> None:
    """Refuse what :func:`learn_harmony` does not ask."""
    rounds = moved.size
    if not (
        moved.shape == (rounds,)
        and 0 < rounds <= ROUNDS
        and [q.name for q in questions] == [*_ROUND] * rounds
    ):
        raise ValueError(f"{len(questions)} questions in {rounds} rounds")
    k, d = questions[0].arrays["centres"].shape
    if not (0 < k <= _MOST_CLUSTERS and d):
        raise ValueError(f"{k} clusters of {d} dimensions")
    named = {CLUSTER: ("centres",), INTERCEPT: (), CORRECT: ("intercepts",)}
    for i, question in enumerate(questions, start=1):
        shapes: dict[str, tuple[int, ...]] = {"step": (1,), "cells": (1,), "sizes": (k,)}
        shapes |= dict.fromkeys(named[question.name], (k, d))
        if {name: array.shape for name, array in question.arrays.items()} != shapes:
            raise ValueError(f"step {i} has other arrays")
        whole = question.arrays["step"], question.arrays["cells"]
        if not all(array.dtype == np.int64 for array in whole) or whole[0][0] != i:
            raise ValueError(f"step {i} is not numbered so")
        for name, array in question.arrays.items():
            least = {"cells": 1, "sizes": 0}.get(name, -np.inf)
            if not (np.isfinite(array).all() and (array >= least).all()):
                raise ValueError(f"step {i}: {name} is not finite, or too small")


def learn_start(ask: Ask, n_cells: int, seed: int) -> np.ndarray:
    """Find the centres to begin with: k-means of unit vectors, a few steps.

    Asks about 8 + log₁.₅(K) questions: 19 at K = 100.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`~fedsc.federated.harmony_lab.answer`.
    n_cells
        Of the pool, at least 1; K, there is a centre for every 30 cells, at most 100.
    seed
        Moves the start of k-means.

    Returns
    -------
    np.ndarray
        Unit vectors, float64 (K, d).

    Raises
    ------
    RunError
        If an embedding has values that are not finite.
    """

    def step(centres: np.ndarray) -> Sums:
        return ask(Question(micro.STEP, {"centres": centres}))

    mean = ask(Question(micro.MEAN))["sum"] / n_cells
    if not np.isfinite(mean).all():
        raise RunError("some lab's embedding has values that are not finite")
    k = min(max(round(n_cells / _CELLS_PER_CLUSTER), 1), _MOST_CLUSTERS)
    centres, sizes = grow(step, mean, 1, k, seed)
    for _ in range(_START_STEPS):
        sums = step(centres)
        sizes = sums["n"]
        centres, _ = mean_and_variance(centres, sums)
    return unit(centres[sizes > 0])


def learn_harmony(
    ask: Ask, n_cells: int, start: np.ndarray, report: Report | None = None
) -> Harmony:
    """Integrate the batches of all labs, in at most 60 questions.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`~fedsc.federated.harmony_lab.answer`
        and keep their state.
    n_cells
        Of the pool.
    start
        Of :func:`learn_start`, float64 (K, d).
    report
        Told of every round.
    """
    asked: list[Question] = []

    def put(name: str, **arrays: np.ndarray) -> Sums:
        numbers = {"step": np.array([len(asked) + 1]), "cells": np.array([n_cells])}
        asked.append(Question(name, numbers | arrays))
        return ask(asked[-1])

    moved: list[float] = []
    centres, sizes = start, np.zeros(len(start))
    while len(moved) < ROUNDS and (not moved or moved[-1] >= TOLERANCE):
        for _ in range(CLUSTER_STEPS):
            sums = put(CLUSTER, centres=centres, sizes=sizes)
            centres, sizes = unit(sums["sum"]), sums["sizes"]
        sums = put(INTERCEPT, sizes=sizes)
        weight = np.maximum(sums["weight"], _TINY)[:, None]
        sums = put(CORRECT, sizes=sizes, intercepts=sums["sum"] / weight)
        centres = unit(sums["sum"])
        moved.append(float(sums["change"][0] / max(sums["squares"][0], _TINY)))
        if report is not None:
            report(len(moved), moved[-1], TOLERANCE)
    return Harmony(tuple(asked), np.array(moved))
