"""What a self-supervised objective is: three functions over an explicit state.

To try a new idea, write one file with ``init``, ``begin`` and ``step``, bundle them in an
:class:`Objective`, and run it as ``method = "your_module:OBJECTIVE"``; ``byol.py`` is the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsc.models.mlp import Weights
from fedsc.models.names import is_buffer
from fedsc.options import MethodOptions

Descend = Callable[[Tensor], None]
"""Zero the gradients, back-propagate a loss (of each lab, where stacked), take one step."""


@dataclass
class State:
    """What a lab trains in one round.

    Attributes
    ----------
    shared
        Leaves the lab after the round and is averaged: online network, predictor.
    private
        Never leaves the lab, survives from round to round: target network, key queue.
    share
        ``None`` for one lab. Where labs train stacked (``docs/decisions/0023-stacked-labs.md``)
        every tensor has a leading dimension of labs, and so have views, (labs, cells, genes), and
        losses, (labs,). Then this is the share of each row of the batch in the mean over its
        lab's cells, float32 (labs, cells): 1/n in the first n rows, 0 in rows that only fill up.
    n_cells
        Cells of each lab, int64 (labs,), where labs train stacked.
    """

    shared: Weights
    private: Weights
    share: Tensor | None = None
    n_cells: Tensor | None = None

    def trainable(self) -> list[Tensor]:
        """List the tensors an optimiser moves, in a fixed order."""
        return [w for part in (self.shared, self.private) for w in part.values() if w.requires_grad]


class Init(Protocol):
    """Draw the shared weights of round 0 (once, on the server)."""

    def __call__(
        self, n_genes: int, options: MethodOptions, generator: torch.Generator
    ) -> Weights: ...


class Begin(Protocol):
    """Start a round in a lab from the received weights and what the lab kept.

    ``private`` is empty on a lab's first round. Marks with ``requires_grad`` what is trained.
    """

    def __call__(
        self,
        shared: Weights,
        private: Weights,
        n_cells: int,
        options: MethodOptions,
        generator: torch.Generator,
    ) -> State: ...


class Step(Protocol):
    """Train on two views of each cell of a batch, float32 (cells, 2, genes); give the loss.

    A step that also trains labs stacked (see :class:`State`) moves tensors in place, never takes a
    value from the device, and gives the labs' losses.
    """

    def __call__(
        self, state: State, views: Tensor, descend: Descend, options: MethodOptions
    ) -> Tensor: ...


@dataclass(frozen=True)
class Objective:
    """A self-supervised objective; ``stacks`` if its step also trains labs stacked."""

    init: Init
    begin: Begin
    step: Step
    stacks: bool = False


def mark_trainable(weights: Weights) -> None:
    """Ask for gradients of every parameter; batch-norm statistics have none."""
    for name, tensor in weights.items():
        if not is_buffer(name):
            tensor.requires_grad_(True)


def copy_as(prefix: str, weights: Weights) -> Weights:
    """Copy the online network under another name, e.g. ``"target."``, without gradients."""
    return {
        f"{prefix}{name}": tensor.detach().clone()
        for name, tensor in weights.items()
        if name.startswith(("encoder.", "projector."))
    }


@torch.no_grad()
def move_average(average: Weights, prefix: str, online: Weights, momentum: float) -> None:
    """Update W^t ← m·W^t + (1 − m)·W^o in place, parameters only (FedSC §3.2).

    Batch-norm statistics of the average follow its own forward passes.
    """
    names = [n for n in average if n.startswith(prefix) and not is_buffer(n)]
    torch._foreach_lerp_(
        [average[n] for n in names],
        [online[n.removeprefix(prefix)] for n in names],
        1.0 - momentum,
    )
