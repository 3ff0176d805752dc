"""FedSC's strategy: FedAvg over the labs' uploads, then each lab its own pulled start weights.

Flower's own ``Strategy.start`` begins at round 1, evaluates every round and knows no checkpoint;
:meth:`FedSC.start` is the same loop without evaluation, and it can begin in the middle.
"""

import math
from collections.abc import Callable, Iterable
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from client_app import messages
from fedsc.config import Config
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays, fedavg
from fedsc.federated.pull import automatic_lambda, divergence, interpolate, pull_mu
from fedsc.rng import numpy_generator
from server_app.checkpoint import ServerState
from server_app.federation import Federation
from server_app.replies import BadReply, update_of

AfterRound = Callable[[ServerState, list[dict[str, Any]]], None]
"""Told after every round: the new state and one row of metrics per lab."""


class FedSC(Strategy):
    """Average and pull (FedSC §3.3).

    Parameters
    ----------
    federation
        The labs.
    config
        Options of the run.
    pull
        Rule for the labs' start weights.
    state
        Where the run stands; changed by every round.
    preprocessing
        Records every lab needs to prepare its cells.
    after_round
        Keeps what must not be lost.
    """

    def __init__(
        self,
        federation: Federation,
        config: Config,
        pull: str,
        state: ServerState,
        preprocessing: RecordDict,
        after_round: AfterRound,
    ) -> None:
        self.federation = federation
        self.config = config
        self.pull = pull
        self.state = state
        self.preprocessing = preprocessing
        self.after_round = after_round
        self._pulls: dict[str, tuple[float | None, float]] = {}
        self._rows: list[dict[str, Any]] = []

    def summary(self) -> None:
        """Log what is about to happen."""
        size = sum(array.nbytes for array in self.state.weights.values())
        log(
            INFO,
            "%s with pull %s, rounds %d to %d, %.2f MB of weights per lab",
            self.config.method,
            self.pull,
            self.state.round + 1,
            self.config.rounds,
            size / 2**20,
        )

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run the rounds that are left.

        Raises
        ------
        RunError
            If a round ends with fewer valid updates than ``min-labs``; what was checkpointed
            before it stays as it is.
        """
        self.summary()
        for round_ in range(self.state.round + 1, self.config.rounds + 1):
            self.federation.await_labs()
            asked = self.configure_train(round_, ArrayRecord(), ConfigRecord(), grid)
            self.aggregate_train(round_, self.federation.deliver(asked))
            self.after_round(self.state, self._rows)
        return Result(arrays=messages.pack_arrays(self.state.weights))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Give each lab of this round its own start weights, eqs. (3)–(4)."""
        contents = {}
        self._pulls = {}
        for lab in self._participants(server_round):
            start, d, mu = self._start_weights(lab)
            self._pulls[lab] = (d, mu)
            contents[lab] = RecordDict(
                {
                    messages.key("start", lab): messages.pack_arrays(start),
                    "run": ConfigRecord({"round": server_round}),
                    **self.preprocessing,
                }
            )
        return self.federation.address(contents, messages.TRAIN, str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the valid updates with weights N_k / N, in the order of the labs' names."""
        answers = self.federation.sort(replies, list(self._pulls))
        updates: dict[str, Arrays] = {}
        failures = dict(answers.failures)
        self._rows = []
        for lab, content in answers.records.items():
            try:
                update, metrics = update_of(content, lab, self.state.weights)
            except BadReply as bad:
                failures[lab] = f"refused: {bad}"
                continue
            updates[lab] = update
            d, mu = self._pulls[lab]
            self._rows.append({"round": server_round, "lab": lab, **metrics, "d": d, "mu": mu})
        for lab, reason in sorted(failures.items()):
            log(
                WARNING,
                "round %d: lab %s failed: %s",
                server_round,
                lab,
                reason,
                extra={"round": server_round, "lab": lab, "reason": reason},
            )
            self._rows.append({"round": server_round, "lab": lab, "failed": reason})
        needed = min(self.federation.min_labs, len(self._pulls))
        if len(updates) < max(1, needed):
            reasons = "; ".join(f"{lab}: {why}" for lab, why in sorted(failures.items()))
            raise RunError(
                f"round {server_round}: {len(updates)} valid updates, {max(1, needed)} needed "
                f"({reasons}); the checkpoint of round {server_round - 1} is intact"
            )
        cells = [self.federation.labs[lab].cells for lab in updates]
        self.state.weights = fedavg(list(updates.values()), cells)
        self.state.uploads.update(updates)
        self.state.round = server_round
        loss = float(np.average([r["loss"] for r in self._rows if "loss" in r], weights=cells))
        mus = [mu for _, mu in self._pulls.values()]
        log(
            INFO,
            "round %d/%d: loss %.4f, μ %.2f to %.2f, %d of %d labs",
            server_round,
            self.config.rounds,
            loss,
            min(mus),
            max(mus),
            len(updates),
            len(self._pulls),
            extra={
                "round": server_round,
                "rounds": self.config.rounds,
                "loss": loss,
                "valid": len(updates),
                "asked": len(self._pulls),
            },
        )
        return None, MetricRecord({"loss": loss})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask nothing: labs without labels have nothing to evaluate during training."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate nothing (see :meth:`configure_evaluate`)."""
        return None

    def _participants(self, round_: int) -> list[str]:
        """Draw the labs of a round; all of them unless ``fraction-train`` says less."""
        labs = list(self.federation.labs)
        share = math.ceil(self.config.fraction_train * len(labs))
        count = min(len(labs), max(share, self.federation.min_labs, 1))
        drawn = numpy_generator(self.config.seed, "participants", round_).permutation(len(labs))
        return sorted(labs[i] for i in drawn[:count])

    def _start_weights(self, lab: str) -> tuple[Arrays, float | None, float]:
        """Give a lab's start weights, its d and μ; a new lab takes the global model (μ = 0)."""
        state, last = self.state, self.state.uploads.get(lab)
        if last is None:
            return state.weights, None, 0.0
        d = divergence(state.weights, last)
        if self.pull == "fedema" and lab not in state.lambdas:
            state.lambdas[lab] = self.config.ema_lambda or automatic_lambda(d, self.config.tau)
        mu = pull_mu(d, self.pull, self.config, state.lambdas.get(lab, 0.0))
        return interpolate(state.weights, last, mu), d, mu
