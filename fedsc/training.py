"""The local training of one lab in one round (FedSC §3.2, §4.1), top to bottom."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedsc.data.preprocess import CellMatrix
from fedsc.errors import DataError
from fedsc.federated.averaging import Arrays
from fedsc.models.encoder import embed
from fedsc.models.mlp import Weights
from fedsc.models.names import is_norm
from fedsc.options import MethodOptions, TrainingOptions
from fedsc.rng import random_bits, torch_generator
from fedsc.sgd import SGD
from fedsc.ssl.objective import Objective, State
from fedsc.ssl.views import masked_views
from fedsc.threads import one_thread

_KEPT_NORM = "norm:"  # prefix of FedBN's normalisation layers among a lab's private tensors


@dataclass(frozen=True)
class Update:
    """What a lab has after a round.

    Attributes
    ----------
    shared
        New weights, the only arrays that leave the lab.
    private
        Target network, queue, …; stays in the lab.
    n_cells
        Cells trained on.
    loss
        Mean loss over the round's steps.
    embedding_std
        Spread of the lab's embedding, about 1 when directions are spread evenly, 0 when collapsed.
    """

    shared: Arrays
    private: Arrays
    n_cells: int
    loss: float
    embedding_std: float


def train_lab(
    objective: Objective,
    start: Arrays,
    private: Arrays,
    cells: CellMatrix,
    method: MethodOptions,
    training: TrainingOptions,
    *,
    seed: int,
    lab: str,
    round_: int,
    device: str = "cpu",
) -> Update:
    """Train ``local_epochs`` epochs from the received weights.

    The result is a function of the arguments alone: batches and masks come from generators
    derived from (seed, lab, round), and one CPU thread is used whatever the machine has.

    Parameters
    ----------
    objective
        What is trained.
    start
        Received weights; not modified.
    private
        What this lab kept from its last round; empty the first time; not modified.
    cells
        The lab's standardised expression.
    method
        What the objective is given, the mask rate, and whether norm layers stay in the lab.
    training
        Epochs, batches and optimiser.
    seed
        Of the run.
    lab
        Name of the lab.
    round_
        Number of the round, from 1.
    device
        Torch device.

    Returns
    -------
    Update
        Arrays are on the CPU.
    """
    with one_thread():
        state = begin(
            objective, start, private, cells.n_cells, method,
            seed=seed, lab=lab, round_=round_, device=device,
        )  # fmt: skip
        optimizer = _optimizer(state.trainable(), training, round_)

        def descend(loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        order = torch_generator(seed, "batches", lab, round_)
        masks = random_bits(seed, "masks", lab, round_)
        total, steps = torch.zeros((), dtype=torch.float64, device=device), 0
        for _ in range(training.local_epochs):
            for rows in batches(cells.n_cells, training.batch_size, order):
                x = torch.from_numpy(cells.batch(rows)).to(device)
                views = masked_views(x, method.mask_rate, masks)
                total += objective.step(state, views, descend, method)
                steps += 1

        shared, keep = kept_apart(_to_numpy(state.shared), _to_numpy(state.private), start, method)
        some = torch.from_numpy(cells.batch(np.arange(min(cells.n_cells, LOOKED_AT)))).to(device)
        return Update(
            shared=shared,
            private=keep,
            n_cells=cells.n_cells,
            loss=float(total) / steps,
            embedding_std=float(spread(state.shared, some)),
        )


LOOKED_AT = 512
"""First cells of a lab whose embedding's spread is told."""


def begin(
    objective: Objective,
    start: Arrays,
    private: Arrays,
    n_cells: int,
    method: MethodOptions,
    *,
    seed: int,
    lab: str,
    round_: int,
    device: str = "cpu",
) -> State:
    """Start a lab's round; arguments as :func:`train_lab` takes them.

    Raises
    ------
    DataError
        If a single cell is to be normalised by its batch.
    """
    if n_cells < 2 and method.norm == "batch":
        raise DataError.without_data(
            "the lab has a single cell, and batch norm needs two: leave the lab out (min-cells), "
            "or train with norm = layer"
        )
    kept_norm = {
        n.removeprefix(_KEPT_NORM): a for n, a in private.items() if n.startswith(_KEPT_NORM)
    }
    return objective.begin(
        _to_torch({**start, **kept_norm}, device),
        _to_torch({n: a for n, a in private.items() if not n.startswith(_KEPT_NORM)}, device),
        n_cells,
        method,
        torch_generator(seed, "begin", lab, round_),
    )


def kept_apart(
    shared: Arrays, private: Arrays, start: Arrays, method: MethodOptions
) -> tuple[Arrays, Arrays]:
    """Part what leaves the lab after a round from what stays (FedBN keeps the norm layers)."""
    if not method.local_norm:
        return shared, private
    kept_norm = {_KEPT_NORM + n: a for n, a in shared.items() if is_norm(n)}
    return {n: start[n] if is_norm(n) else a for n, a in shared.items()}, private | kept_norm


def spread(weights: Weights, cells: Tensor) -> Tensor:
    """Measure the spread of an embedding (:class:`Update`), a scalar on the cells' device."""
    return embed(weights, cells).std(dim=0, correction=0).square().sum().sqrt()


def batches(n_cells: int, size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Shuffle cells into batches; a trailing batch of one joins the batch before it.

    (Batch norm has no variance of a single cell.) A lab with fewer cells than ``size`` gives one
    batch of what it has.
    """
    order = torch.randperm(n_cells, generator=generator).numpy()
    first = 0
    for length in batch_sizes(n_cells, size):
        yield order[first : first + length]
        first += length


def batch_sizes(n_cells: int, size: int) -> list[int]:
    """Give the sizes of a lab's batches, the same in every epoch."""
    edges = [*range(0, n_cells, size), n_cells]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return [last - first for first, last in pairwise(edges)]


def learning_rate(training: TrainingOptions, round_: int) -> float:
    """Give the learning rate of a round, from 1: constant, or a half cosine down to zero."""
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_ - 1) / training.rounds))


def embed_cells(
    weights: Arrays, cells: CellMatrix, *, unit: bool = True, device: str = "cpu"
) -> np.ndarray:
    """Embed every cell with the encoder (FedSC §4.1, inference).

    Parameters
    ----------
    weights
        Holds the encoder.
    cells
        Standardised expression.
    unit
        L2-normalise each row, as every trained method does.
    device
        Torch device.

    Returns
    -------
    np.ndarray
        float32 (cells, dimensions).
    """
    with one_thread():
        on_device = _to_torch(weights, device)
        rows = np.array_split(np.arange(cells.n_cells), max(1, math.ceil(cells.n_cells / 4096)))
        return np.concatenate(
            [
                embed(on_device, torch.from_numpy(cells.batch(r)).to(device), unit=unit)
                .cpu()
                .numpy()
                for r in rows
            ]
        )


def with_kept_norm(weights: Arrays, private: Arrays) -> Arrays:
    """Put the normalisation layers a FedBN lab kept in place of the received ones."""
    return weights | {
        name.removeprefix(_KEPT_NORM): array
        for name, array in private.items()
        if name.startswith(_KEPT_NORM)
    }


def _optimizer(
    parameters: list[Tensor], training: TrainingOptions, round_: int
) -> SGD | torch.optim.Optimizer:
    rate = learning_rate(training, round_)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=rate, weight_decay=training.weight_decay, fused=True
        )
    return SGD(parameters, rate, training.momentum, training.weight_decay)


def _to_torch(arrays: Arrays, device: str) -> Weights:
    # A copy, because training moves tensors in place and the caller keeps its arrays.
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}


def _to_numpy(weights: Weights) -> Arrays:
    return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}
