"""A lab's side of Harmony: what it computes for itself, what it keeps, what it tells in sums.

:mod:`fedsc.federated.harmony` says what all this is for.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedsc import tensors
from fedsc.data.reading.memory import refuse_large
from fedsc.errors import DataError, RunError
from fedsc.federated import micro
from fedsc.federated.bounds import LARGEST, Asked, Check, at_least, at_most, finding
from fedsc.federated.correction import BatchedCells, Correction, members
from fedsc.federated.micro import unit
from fedsc.federated.query import Question, Sums, as_array, as_names

CLUSTER = "harmony-cluster"
INTERCEPT = "harmony-intercept"
CORRECT = "harmony-correct"

THETA = 2.0  # weight of the penalty on clusters that few batches share
ALPHA = 0.2  # ridge λ_b as a share of the cells expected, E_b
_DAMPING = 0.5
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class HarmonyState:
    """What a lab keeps from one question to the next, all of it on its own disk.

    Attributes
    ----------
    asked
        Names of the questions answered so far, of :func:`chained`.
    corrected
        Embedding after the last whole round, float (cells, d), of the type of the original. The
        same object as before a step that does not move cells.
    centres
        Of the last clustering step, float64 (K, d).
    penalty, sizes
        Of each batch in that step: penalty on every cluster and Σ membership O_b, float64 (B, K).
    correction
        Of the rounds so far.
    reply
        To the last question: who asks it again gets the same.
    """

    asked: tuple[str, ...]
    corrected: np.ndarray
    centres: np.ndarray
    penalty: np.ndarray
    sizes: np.ndarray
    correction: Correction
    reply: Sums

    @property
    def step(self) -> int:
        """Number of the last question answered, from 1."""
        return len(self.asked)

    def arrays(self) -> dict[str, np.ndarray]:
        """Give everything as named arrays, to be kept as safetensors."""
        return {
            "asked": as_array(self.asked),
            "corrected": self.corrected,
            "centres": self.centres,
            "penalty": self.penalty,
            "sizes": self.sizes,
            **{f"correction.{name}": array for name, array in vars(self.correction).items()},
            **{f"reply.{name}": array for name, array in self.reply.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "HarmonyState":
        """Undo :meth:`arrays`.

        Raises
        ------
        RunError
            If an array is missing.
        """
        try:
            return cls(
                asked=tuple(as_names(arrays["asked"])),
                corrected=arrays["corrected"],
                centres=arrays["centres"],
                penalty=arrays["penalty"],
                sizes=arrays["sizes"],
                correction=Correction(**_under("correction.", arrays)),
                reply=_under("reply.", arrays),
            )
        except (KeyError, TypeError) as error:
            outside = "the lab's state of the integration is damaged"
            raise RunError(f"{outside} ({error})", outside) from error


def chained(asked: tuple[str, ...], question: Question) -> tuple[str, ...]:
    """Add a question to those that were put, each named by its content and by all before it.

    So the last name tells one integration from any other, also of as many steps.
    """
    content = tensors.pack(question.arrays, {"question": question.name, "after": asked[-1:]})
    return (*asked, hashlib.sha256(content).hexdigest())


def answer(
    cells: BatchedCells, state: HarmonyState | None, question: Question
) -> tuple[Sums, HarmonyState | None]:
    """Answer one of the questions of :mod:`fedsc.federated.harmony`.

    Pure: what the lab has to remember is in the state returned. A question asked again, after its
    reply was lost, gets the same reply and moves nothing.

    Parameters
    ----------
    cells
        Of the lab.
    state
        What the last answer returned; ``None`` before the first. The first clustering step begins
        anew, whatever the state.
    question
        Numbered in ``step``, but for those of the start, which change nothing.

    Raises
    ------
    ValueError
        If it is none of these.
    RunError
        If a question in between was missed, or the last one comes again and is another.
    """
    if question.name in micro.ANSWERS:
        return micro.ANSWERS[question.name](cells.x, question), state
    if question.name not in _STEPS:
        known = sorted([*_STEPS, *micro.ANSWERS])
        raise ValueError(f"unknown question '{question.name}', known are {known}")
    step = int(question.arrays["step"][0])
    if step == 1:
        state = _begin(cells, *question.arrays["centres"].shape)
    if state is None or step not in (state.step, state.step + 1):
        at = "has not begun" if state is None else f"is at step {state.step}"
        raise RunError.without_data(
            f"integration: the lab {at} and is asked for step {step}; its state is of another "
            "run or was lost: start the integration again"
        )
    asked = chained(state.asked[: step - 1], question)
    if step == state.step + 1:
        state = replace(_STEPS[question.name](cells, state, question.arrays), asked=asked)
    elif asked != state.asked:
        raise RunError.without_data(
            f"integration: the lab has answered another question as step {step}, of another "
            "integration: start the integration again"
        )
    return state.reply, state


def fit_later(cells: BatchedCells, questions: Iterable[Question]) -> HarmonyState:
    """Find the correction of a lab that was not there, the others' unchanged.

    It answers every question that was put then and keeps its answers to itself: its cells go to
    the clusters the pool has, and its offsets are from the pool's intercepts. For a lab that was
    there, the state it had at the end, to the bit.

    Parameters
    ----------
    cells
        Of the new lab.
    questions
        Of :class:`fedsc.federated.harmony.Harmony`.

    Raises
    ------
    RunError
        If there is no question.
    """
    state: HarmonyState | None = None
    for question in questions:
        _, state = answer(cells, state, question)
    if state is None:
        raise RunError("the kept integration holds no question")
    return state


def load_correction(path: Path, integration: str) -> tuple[Correction, list[str]]:
    """Load how a lab's cells were moved from what it keeps (:meth:`HarmonyState.arrays`).

    Parameters
    ----------
    path
        Of the file.
    integration
        Name of the run's integration, which has to be the one it is of.

    Returns
    -------
    tuple
        The correction, and the names of the lab's batches, empty where it is one batch.

    Raises
    ------
    DataError
        If the file is damaged, too large, no such state, or of another integration.
    """
    try:
        refuse_large(path)
        arrays, about = tensors.read(path)
        found = _under("correction.", arrays)
        if not found:
            raise ValueError(_NOT_A_LAB_S)
        correction = Correction(**found)
        rounds, k, d = correction.centres.shape
        batches = correction.penalty.shape[1]
        shapes = {"penalty": (rounds, batches, k), "offsets": (rounds, batches, k, d)}
        if any(getattr(correction, name).shape != shape for name, shape in shapes.items()):
            raise ValueError("its arrays do not fit together")
        if not all(np.isfinite(array).all() for array in vars(correction).values()):
            raise ValueError("it is not finite")
        names = about.get("batches", [])
        named = isinstance(names, list) and len(names) in ({batches} if batches > 1 else {0, 1})
        if not named:
            raise ValueError(f"names of {batches} batches are missing")
        names = list(map(str, names))
        if "asked" not in arrays or as_names(arrays["asked"])[-1] != integration:
            raise ValueError("it is not of this run's integration: was the run resumed since?")
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path}: no state of a lab's integration ({error})") from error
    return correction, names


_NOT_A_LAB_S = (
    "the file is the run's own or something else; each lab has one, labs/LAB/integration."
    "safetensors in the folder of a simulated run, of a real lab state/RUN/integration.safetensors"
)


def _begin(cells: BatchedCells, k: int, d: int) -> HarmonyState:
    none = np.zeros((len(cells.batch_sizes), k))
    nothing = Correction(
        np.empty((0, k, d)), np.empty((0, *none.shape)), np.empty((0, *none.shape, d))
    )
    return HarmonyState((), cells.x, np.zeros((k, d)), none, none, nothing, {})


def _cluster(cells: BatchedCells, state: HarmonyState, told: Sums) -> HarmonyState:
    """One step of clustering: reply Σ r·z and Σ r."""
    centres, penalty = told["centres"], state.penalty
    if state.step > 0:  # before, no cell was in any cluster
        expected = _expected(cells, told)
        new = THETA * np.log(expected / (state.sizes + expected))
        penalty = (1 - _DAMPING) * penalty + _DAMPING * new
    sizes, total = np.zeros(penalty.shape), np.zeros(centres.shape)
    for batch, _, z, membership in members(cells, state.corrected, centres, penalty):
        sizes[batch] += membership.sum(axis=0)
        total += membership.T @ z
    reply = {"sum": total, "sizes": sizes.sum(axis=0)}
    return replace(state, centres=centres, penalty=penalty, sizes=sizes, reply=reply)


def _intercept(cells: BatchedCells, state: HarmonyState, told: Sums) -> HarmonyState:
    """Reply Σ u_b·S_b and Σ u_b·O_b, whose quotient is β0."""
    ridge = ALPHA * _expected(cells, told)
    u = ridge / (state.sizes + ridge)
    total = (u[:, :, None] * _sums(cells, state)).sum(axis=0)
    return replace(state, reply={"sum": total, "weight": (u * state.sizes).sum(axis=0)})


def _correct(cells: BatchedCells, state: HarmonyState, told: Sums) -> HarmonyState:
    """Move the cells; reply how far, and Σ r·z of where they are now."""
    ridge = ALPHA * _expected(cells, told)
    offsets = _sums(cells, state) - state.sizes[:, :, None] * told["intercepts"]
    offsets /= (state.sizes + ridge)[:, :, None]
    corrected = np.empty_like(cells.x)
    total, change, squares = np.zeros(state.centres.shape), np.zeros(1), np.zeros(1)
    shared = members(cells, state.corrected, state.centres, state.penalty)
    for batch, rows, _, membership in shared:
        corrected[rows] = cells.x[rows] - membership @ offsets[batch]
        new = corrected[rows].astype(np.float64)
        total += membership.T @ unit(new)
        change += np.square(new - state.corrected[rows]).sum()
        squares += np.square(new).sum()
    reply = {"sum": total, "change": change, "squares": squares}
    correction = state.correction.followed_by(state.centres, state.penalty, offsets)
    return replace(state, corrected=corrected, correction=correction, reply=reply)


_STEPS: dict[str, Callable[[BatchedCells, HarmonyState, Sums], HarmonyState]] = {
    CLUSTER: _cluster,
    INTERCEPT: _intercept,
    CORRECT: _correct,
}


def _expected(cells: BatchedCells, told: Sums) -> np.ndarray:
    """Give E_b, the cells a batch had in each cluster if all were spread alike, (B, K)."""
    share = cells.batch_sizes / told["cells"][0]
    return np.asarray(np.maximum(share[:, None] * told["sizes"], _TINY))


def _sums(cells: BatchedCells, state: HarmonyState) -> np.ndarray:
    """Give S_b = Σ r·x of the cells as they were at first, float64 (B, K, d)."""
    total = np.zeros((*state.sizes.shape, cells.x.shape[1]))
    shared = members(cells, state.corrected, state.centres, state.penalty)
    for batch, rows, _, membership in shared:
        total[batch] += membership.T @ cells.x[rows].astype(np.float64)
    return total


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def check_cluster(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in a step of clustering: each cell shares 1 among the clusters."""
    n, sizes = asked.n_cells, sums["sizes"]
    return finding(
        at_least("sizes", sizes, 0),
        at_most("the total of sizes", sizes.sum(), n),
        at_least("the total of sizes", sizes.sum(), n),
        at_most("the length of sum", np.linalg.norm(sums["sum"], axis=1), sizes + 1e-9 * n),
    )


def check_intercept(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in Σ u·S and Σ u·O, with u at most 1."""
    n, weight = asked.n_cells, sums["weight"]
    return finding(
        at_least("weight", weight, 0),
        at_most("the total of weight", weight.sum(), n),
        at_most("sum", np.abs(sums["sum"]), weight[:, None] * LARGEST),
    )


def check_correct(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in where cells are after a correction, and how far they moved."""
    n, d = asked.n_cells, sums["sum"].shape[1]
    lengths = np.linalg.norm(sums["sum"], axis=1)
    return finding(
        at_most("the length of sum", lengths.sum(), n),
        *(at_least(name, sums[name], 0) for name in ("change", "squares")),
        *(at_most(name, sums[name], n * d * LARGEST**2) for name in ("change", "squares")),
    )


CHECKS: dict[str, Check] = {
    CLUSTER: check_cluster,
    INTERCEPT: check_intercept,
    CORRECT: check_correct,
}
