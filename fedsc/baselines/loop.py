"""The loop over epochs that every trained method here runs: resume, train, save, tell."""

import math
import time
from collections.abc import Callable

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
from fedsc.ssl.objective import Descend
from fedsc.training import one_thread

_SAVE_SECONDS = 10.0  # what an interrupted fit may lose, besides the epoch it was in


Epoch = Callable[[int, Descend], float | None]
"""Trains the epoch of a number, from 0, and gives its mean loss; ``None``: nothing is left to do.

Its draws must come from the seed and the number alone.
"""


@one_thread()
def train(
    phase: str,
    weights: Weights,
    optimizer_of: Callable[[list[Tensor]], torch.optim.Optimizer],
    epoch: Epoch,
    n_epochs: int,
    settings: Settings,
    of: str,
    *,
    rate: Callable[[int], float] | None = None,
) -> list[float]:
    """Train until ``n_epochs`` are done or nothing is left to do; moves ``weights`` along.

    Parameters
    ----------
    phase
        Name of the checkpoint and of the progress bar.
    weights
        Everything that goes on from epoch to epoch; float tensors but batch-norm statistics are
        trained.
    optimizer_of
        Makes the optimiser.
    epoch
        Trains one epoch on ``weights``.
    n_epochs
        Most epochs.
    settings
        Checkpoint folder, device and progress count here.
    of
        Fingerprint of what decides the result.
    rate
        Learning rate of an epoch; ``None`` leaves the optimiser's.

    Returns
    -------
    list of float
        Mean loss of every epoch, those of an earlier call included.

    Raises
    ------
    RunError
        If there is a checkpoint of something else, or the loss is no longer finite.
    """
    path = settings.checkpoint / f"{phase}.safetensors" if settings.checkpoint else None
    saved = load(path, of, settings.device) if path else None
    losses = [] if saved is None else saved.losses
    if saved is not None:
        weights.update(saved.weights)
    for name, tensor in weights.items():
        tensor.requires_grad_(tensor.is_floating_point() and not is_buffer(name))
    optimizer = optimizer_of([tensor for tensor in weights.values() if tensor.requires_grad])
    if saved is not None:
        give_optimizer_state(optimizer, saved.optimizer)

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    converged = saved is not None and saved.converged
    written = -_SAVE_SECONDS
    while len(losses) < n_epochs and not converged:
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(len(losses))
        loss = epoch(len(losses), descend)
        converged = loss is None
        if loss is not None:
            if not math.isfinite(loss):
                raise RunError(
                    f"{phase} diverged: the loss of epoch {len(losses) + 1} is {loss}; lower the "
                    "learning rate, or clip the input with max-value"
                )
            losses.append(loss)
            settings.progress(phase, len(losses), n_epochs, {"loss": loss})
        last = converged or len(losses) == n_epochs
        if path and (last or time.monotonic() - written >= _SAVE_SECONDS):
            save(path, Saved(weights, optimizer_state(optimizer), losses, converged), of)
            written = time.monotonic()
    for tensor in weights.values():
        tensor.requires_grad_(False)
    return losses
