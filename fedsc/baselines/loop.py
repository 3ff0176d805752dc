"""The loop over epochs that every trained method here runs: resume, train, save, tell."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines.checkpoint import (
    Saved,
    give_optimizer_state,
    load,
    optimizer_state,
    save,
)
from fedsc.baselines.method import Settings
from fedsc.errors import RunError
from fedsc.models.mlp import Weights
from fedsc.models.names import is_buffer
from fedsc.rng import torch_generator
from fedsc.threads import one_thread
from fedsc.training import batches

_SAVE_SECONDS = 10.0  # what an interrupted fit may lose, besides the epoch it was in

BatchLoss = Callable[[np.ndarray], Tensor]
"""Gives the mean loss of the cells of some rows, a scalar with gradient to the weights."""

LossOfEpoch = Callable[[int], BatchLoss | None]
"""Gives the loss of the epoch of a number, from 0; ``None``: nothing is left to do.

Its draws must come from the seed and the number alone.
"""

OptimizerOf = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Phase:
    """A training from first epoch to last.

    Attributes
    ----------
    name
        Of the checkpoint and of the progress bar.
    order
        Purpose of the draws that shuffle the cells.
    n_cells, batch_size
        Cells, and cells per step.
    n_epochs
        Most epochs.
    optimizer_of
        Makes the optimiser.
    rate
        Learning rate of a step, from the number of its epoch and the share of that epoch done
        with it, in (0, 1]; ``None`` leaves the optimiser's.
    """

    name: str
    order: tuple[str, ...]
    n_cells: int
    batch_size: int
    n_epochs: int
    optimizer_of: OptimizerOf
    rate: Callable[[int, float], float] | None = None


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes
    ----------
    weights
        Those that went in, trained, on the device.
    losses
        Mean loss of every epoch, those of an earlier call included.
    seconds
        What each epoch of this call took; fewer than ``losses`` after a resumption.
    """

    weights: Weights
    losses: list[float]
    seconds: list[float]


@one_thread()
def train(
    phase: Phase, weights: Weights, loss_of_epoch: LossOfEpoch, settings: Settings, of: str
) -> Trained:
    """Train until all epochs are done or nothing is left to do; moves ``weights`` along.

    Parameters
    ----------
    phase
        How long, in which steps.
    weights
        Everything that goes on from epoch to epoch; float tensors but batch-norm statistics are
        trained. They are put on the device before ``loss_of_epoch`` is called.
    loss_of_epoch
        What is to become small.
    settings
        Seed, checkpoint folder, device and progress count here.
    of
        Fingerprint of what decides the result.

    Raises
    ------
    RunError
        If there is a checkpoint of something else, or the loss is no longer finite.
    """
    path = settings.checkpoint / f"{phase.name}.safetensors" if settings.checkpoint else None
    saved = load(path, of) if path else None
    weights.update(saved.weights if saved else {})
    for name in weights:
        weights[name] = weights[name].to(settings.device)
        weights[name].requires_grad_(weights[name].is_floating_point() and not is_buffer(name))
    optimizer = phase.optimizer_of([tensor for tensor in weights.values() if tensor.requires_grad])
    if saved:
        give_optimizer_state(optimizer, saved.optimizer)
    losses = saved.losses if saved else []
    converged = bool(saved and saved.converged)
    seconds: list[float] = []
    written = -_SAVE_SECONDS
    while len(losses) < phase.n_epochs and not converged:
        began = time.monotonic()
        number = len(losses)
        loss_of = loss_of_epoch(number)
        converged = loss_of is None
        if loss_of is not None:
            order = torch_generator(settings.seed, *phase.order, number)
            loss = _epoch(phase, number, loss_of, optimizer, order)
            if not math.isfinite(loss):
                raise RunError(
                    f"{phase.name} diverged: the loss of epoch {number + 1} is {loss}; lower the "
                    "learning rate, or clip the input with max-value"
                )
            losses.append(loss)
            seconds.append(time.monotonic() - began)
            settings.progress(phase.name, len(losses), phase.n_epochs, {"loss": loss})
        last = converged or len(losses) == phase.n_epochs
        if path and (last or time.monotonic() - written >= _SAVE_SECONDS):
            save(path, Saved(weights, optimizer_state(optimizer), losses, converged), of)
            written = time.monotonic()
    for tensor in weights.values():
        tensor.requires_grad_(False)
    return Trained(weights, losses, seconds)


def _epoch(
    phase: Phase,
    number: int,
    loss_of: BatchLoss,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
) -> float:
    """Go through all cells once; gives their mean loss."""
    steps = list(batches(phase.n_cells, phase.batch_size, order))
    total = torch.zeros((), dtype=torch.float64)
    for i, rows in enumerate(steps):
        if phase.rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = phase.rate(number, (i + 1) / len(steps))
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total = total + loss.detach() * len(rows)
    return float(total) / phase.n_cells
