"""Harmony over labs that live in this process, for benchmarks and tests."""

from collections.abc import Sequence

from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony import Harmony, learn_harmony, learn_start
from fedsc.federated.harmony_lab import HarmonyState, answer
from fedsc.federated.query import Question, Sums, add


def integrate_here(labs: Sequence[BatchedCells], seed: int) -> tuple[Harmony, list[HarmonyState]]:
    """Integrate labs; give what the server learns, and what each lab has."""
    states: list[HarmonyState | None] = [None] * len(labs)

    def ask(question: Question) -> Sums:
        answers = []
        for i, lab in enumerate(labs):
            sums, states[i] = answer(lab, states[i], question)
            answers.append(sums)
        return add(answers)

    n_cells = sum(len(lab.x) for lab in labs)
    harmony = learn_harmony(ask, n_cells, learn_start(ask, n_cells, seed))
    return harmony, [state for state in states if state is not None]
