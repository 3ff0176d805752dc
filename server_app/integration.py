"""Labs of different techniques brought together: whether, how, and how they mix then.

Each lab moves its own cells; the server learns sums alone.
"""

from dataclasses import dataclass
from logging import INFO
from typing import Any

import numpy as np
from flwr.common import log

from fedsc.config import Config
from fedsc.federated import harmony_lab, mixing
from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony import Harmony, learn_harmony, learn_start
from fedsc.federated.mixing import decide, learn_mixing
from fedsc.federated.query import Question, Sums
from protocol import ask as asking
from server_app.federation import Federation


@dataclass(frozen=True)
class Integration:
    """How labs were brought together.

    Attributes
    ----------
    harmony
        ``None`` where the embedding is as it was.
    about
        What was asked for, what was done and why, for ``scores.json``.
    warnings
        What has to be known where Harmony was asked for.
    """

    harmony: Harmony | None
    about: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of this integration, for messages; ``""`` where the embedding is as it was."""
        return self.harmony.name if self.harmony else ""


def integrate(federation: Federation, config: Config, dimensions: int) -> Integration:
    """Bring labs of different techniques together, where it is asked for or seems to help.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    wanted = config.analysis.integrate
    if wanted == "none":
        return Integration(None, {"asked": wanted, "done": False})
    ask = federation.ask(
        asking.INTEGRATION,
        asking.about_embedding(""),
        _IntegrationAnswers(dimensions),
    )
    n_cells = sum(about.cells for about in federation.labs.values())
    start = learn_start(ask, n_cells, config.run.seed)
    before = learn_mixing(ask, start)
    advice = decide(before)
    if not advice.integrate and (wanted == "auto" or before.batches < 2):
        log(INFO, "integrate = %s: not done; %s", wanted, advice.reason)
        told = (f"integrate = harmony: not done; {advice.reason}",) if wanted == "harmony" else ()
        return Integration(None, {"asked": wanted, "done": False, "reason": advice.reason}, told)
    harmony = learn_harmony(ask, n_cells, start, _harmony_reporter)
    moved = federation.ask(
        asking.INTEGRATION,
        asking.about_embedding(harmony.name),
        _IntegrationAnswers(dimensions),
    )
    after = learn_mixing(moved, harmony.centres)
    advice = decide(before, after)
    done = wanted == "harmony" or advice.integrate
    log(
        INFO,
        "integrate = %s: %s; %s",
        wanted,
        "done" if done else "not done",
        advice.reason,
    )
    about = {
        "asked": wanted,
        "done": done,
        "reason": advice.reason,
        "mixing_before": before.index,
        "mixing_after": after.index,
        "bend": after.bend,
        "rounds": len(harmony.moved),
        "steps": len(harmony.questions),
        "converged": harmony.converged,
    }
    if not done:
        return Integration(None, about)
    if advice.integrate:
        return Integration(harmony, about)
    doubt = (
        f"labs were integrated (integrate = {wanted}), though it may not help: {advice.reason}; "
        "compare with integrate = none"
    )
    return Integration(harmony, about, (doubt,))


class _IntegrationAnswers:
    """What a lab without cells answers about integration; it remembers the steps, as labs do."""

    def __init__(self, dimensions: int) -> None:
        nothing = np.empty((0, dimensions), dtype=np.float32)
        self._cells = BatchedCells(nothing, np.empty(0, dtype=np.int64))
        self._state: harmony_lab.HarmonyState | None = None

    def __call__(self, question: Question) -> Sums:
        if question.name == mixing.MIXING:
            return mixing.sum_mixing(self._cells, None, question)
        sums, self._state = harmony_lab.answer(self._cells, self._state, question)
        return sums


def _harmony_reporter(rounds: int, moved: float, tolerance: float) -> None:
    log(
        INFO,
        "harmony: round %d, cells moved by %.2g (done at %.2g)",
        rounds,
        moved,
        tolerance,
    )
