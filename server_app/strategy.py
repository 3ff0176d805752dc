"""The rounds: each lab its own pulled start weights, then FedAvg over the updates (FedSC §3.3).

A round is a transition of explicit data: state → start weights of every lab → what came back
(:class:`RoundResult`) → state. Flower's own ``Strategy.start`` begins at round 1, evaluates every
round and knows no checkpoint; :func:`train` is the same loop without evaluation, and it can begin
in the middle.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.common import log

from fedsc.config import Config
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays, average
from fedsc.federated.limits import too_far
from fedsc.federated.pull import automatic_lambda, divergence, interpolate, pull_mu
from fedsc.options import FederationOptions, MethodOptions
from fedsc.rng import numpy_generator
from protocol.checks import BadReply
from protocol.records import TRAIN
from protocol.train import pack_start, read_update
from server_app.checkpoint import ServerState
from server_app.federation import Federation
from server_app.traffic import Traffic


@dataclass(frozen=True)
class Start:
    """Where a lab starts a round.

    Attributes
    ----------
    weights
        What it is sent.
    d
        Divergence of its last upload from the global model; ``None`` in its first round.
    mu
        Share of its own weights in what it is sent; 0 in its first round.
    ema_lambda
        Its λ of FedEMA; 0 under other rules.
    """

    weights: Arrays
    d: float | None = None
    mu: float = 0.0
    ema_lambda: float = 0.0


@dataclass(frozen=True)
class RoundResult:
    """What came back from a round.

    Attributes
    ----------
    round
        Its number, from 1.
    starts
        Where each lab started, by lab.
    updates
        Valid updates, by lab, sorted.
    metrics
        What the labs with a valid update told of it: cells, loss, …; by lab.
    failures
        Reason in words, by lab, sorted.
    """

    round: int
    starts: dict[str, Start]
    updates: dict[str, Arrays]
    metrics: dict[str, dict[str, Any]]
    failures: dict[str, str]

    @property
    def cells(self) -> list[int]:
        """Cells trained on, in the order of ``updates``."""
        return [self.metrics[lab]["cells"] for lab in self.updates]

    @property
    def loss(self) -> float:
        """Mean loss over the cells of all labs."""
        return float(np.average([m["loss"] for m in self.metrics.values()], weights=self.cells))

    def rows(self) -> list[dict[str, Any]]:
        """Give one row per lab, as ``metrics.jsonl`` keeps them."""
        trained = [
            {
                "round": self.round,
                "lab": lab,
                **told,
                "d": self.starts[lab].d,
                "mu": self.starts[lab].mu,
            }
            for lab, told in self.metrics.items()
        ]
        failed = [
            {"round": self.round, "lab": lab, "failed": reason}
            for lab, reason in self.failures.items()
        ]
        return trained + failed


AfterRound = Callable[[ServerState, RoundResult], None]
"""Keeps what must not be lost: told the new state and how the round went."""


def train(
    federation: Federation,
    config: Config,
    pull: str,
    state: ServerState,
    preprocessing: RecordDict,
    after_round: AfterRound,
) -> ServerState:
    """Run the rounds that are left.

    Parameters
    ----------
    federation
        The labs.
    config
        Options of the run.
    pull
        Rule for the labs' start weights.
    state
        Where the run stands.
    preprocessing
        Records every lab needs to prepare its cells.
    after_round
        Called after every round.

    Returns
    -------
    ServerState
        After the last round.

    Raises
    ------
    RunError
        If a round ends with fewer valid updates than ``min-updates``; what was checkpointed before
        it stays as it is.
    """
    rounds = config.training.rounds
    if state.round == rounds:
        log(INFO, "all %d rounds are done", rounds)
        return state
    log(
        INFO,
        "%s with pull %s, rounds %d to %d, %.2f MB of weights per lab",
        config.method.name,
        pull,
        state.round + 1,
        rounds,
        sum(array.nbytes for array in state.weights.values()) / 2**20,
        extra={"first": state.round + 1, "rounds": rounds},
    )
    for round_ in range(state.round + 1, rounds + 1):
        federation.await_labs()
        labs = participants(
            federation.connected, config.federation.fraction_train, config.run.seed, round_
        )
        starts = {lab: start_of(state, lab, pull, config.method) for lab in labs}
        result = _exchange(federation, round_, starts, config, preprocessing)
        _log_failures(result)
        needed = federation.needed(len(starts))
        if len(result.updates) < needed:
            left = (
                f"the checkpoint of round {round_ - 1} is intact"
                if round_ > 1
                else "no round is done"
            )
            raise RunError(
                f"round {round_}: {len(result.updates)} valid updates, {needed} needed "
                f"({_reasons(result.failures)}); {left}"
            )
        state = aggregate(state, result, config.federation)
        after_round(state, result)
        _log_round(result, rounds, federation.traffic)
    return state


def _reasons(failures: Mapping[str, str]) -> str:
    """Say why labs failed, each reason once."""
    labs_of: dict[str, list[str]] = {}
    for lab, why in failures.items():
        labs_of.setdefault(why, []).append(lab)
    return "; ".join(f"{', '.join(labs)}: {why}" for why, labs in labs_of.items())


def participants(labs: list[str], fraction: float, seed: int, round_: int) -> list[str]:
    """Draw ``fraction`` of the labs that are there, to the nearest number, at least one; sorted."""
    count = max(1, math.floor(fraction * len(labs) + 0.5))
    drawn = numpy_generator(seed, "participants", round_).permutation(len(labs))
    return sorted(labs[i] for i in drawn[:count])


def start_of(state: ServerState, lab: str, pull: str, options: MethodOptions) -> Start:
    """Pull a lab's last upload towards the global model, eqs. (3)–(4); a new lab takes the latter.

    Parameters
    ----------
    state
        Where the run stands.
    lab
        Name of the lab.
    pull
        ``"fedsc"``, ``"fedema"``, ``"constant"`` or ``"none"``.
    options
        Give α, λ, τ and the constant μ.
    """
    last = state.uploads.get(lab)
    if last is None:
        return Start(state.weights)
    d = divergence(state.weights, last)
    ema_lambda = 0.0
    if pull == "fedema":
        given = options.ema_lambda or automatic_lambda(d, options.tau)
        ema_lambda = state.lambdas.get(lab, given)
    mu = pull_mu(d, pull, options, ema_lambda)
    return Start(interpolate(state.weights, last, mu), d, mu, ema_lambda)


def aggregate(state: ServerState, result: RoundResult, options: FederationOptions) -> ServerState:
    """Average the valid updates, in the order of the labs' names.

    Parameters
    ----------
    state
        Before the round.
    result
        Of the round.
    options
        ``aggregate`` and ``trim``.
    """
    set_now = {lab: s.ema_lambda for lab, s in result.starts.items() if s.ema_lambda}
    return ServerState(
        round=result.round,
        weights=average(
            list(result.updates.values()), result.cells, options.aggregate, options.trim
        ),
        uploads=state.uploads | result.updates,
        lambdas=set_now | state.lambdas,
    )


def _exchange(
    federation: Federation,
    round_: int,
    starts: dict[str, Start],
    config: Config,
    preprocessing: RecordDict,
) -> RoundResult:
    """Send the start weights, read what comes back and refuse what cannot be or is far too much."""
    contents = {
        lab: pack_start(lab, round_, start.weights, preprocessing) for lab, start in starts.items()
    }
    answers = federation.tell_each(contents, TRAIN, group=str(round_))
    updates: dict[str, Arrays] = {}
    metrics: dict[str, dict[str, Any]] = {}
    moved: dict[str, float] = {}
    failures = dict(answers.failures)
    for lab, content in answers.records.items():
        start, cells = starts[lab].weights, federation.labs[lab].cells
        try:
            updates[lab], metrics[lab], moved[lab] = read_update(
                content, lab, start, cells, config.federation.upload
            )
        except BadReply as bad:
            failures[lab] = f"refused: {bad}"
    steps = {
        lab: math.ceil(told["cells"] / config.training.batch_size) for lab, told in metrics.items()
    }
    origins = {lab: start.weights for lab, start in starts.items()}
    for lab, why in too_far(moved, steps, origins).items():
        failures[lab] = f"refused: {why}"
        del updates[lab], metrics[lab]
    return RoundResult(round_, starts, updates, metrics, dict(sorted(failures.items())))


def _log_round(result: RoundResult, rounds: int, traffic: Traffic) -> None:
    shares = [start.mu for start in result.starts.values()]
    fields = {
        "round": result.round,
        "rounds": rounds,
        "loss": result.loss,
        "valid": len(result.updates),
        "asked": len(result.starts),
        **vars(traffic),
    }
    log(
        INFO,
        "round %d/%d: loss %.4f, μ %.2f to %.2f, %d of %d labs",
        result.round,
        rounds,
        result.loss,
        min(shares),
        max(shares),
        len(result.updates),
        len(result.starts),
        extra=fields,
    )


def _log_failures(result: RoundResult) -> None:
    for lab, reason in result.failures.items():
        log(
            WARNING,
            "round %d: lab %s failed: %s",
            result.round,
            lab,
            reason,
            extra={"round": result.round, "lab": lab, "reason": reason},
        )
