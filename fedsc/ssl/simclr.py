"""SimCLR (Chen et al. 2020): two views of a cell attract, views of other cells repel."""

import torch
from torch import Tensor

from fedsc.models.encoder import init_online, project
from fedsc.models.mlp import Weights
from fedsc.options import MethodOptions
from fedsc.ssl.losses import nt_xent
from fedsc.ssl.objective import Descend, Objective, State, mark_trainable

TEMPERATURE = 0.07


def init(n_genes: int, options: MethodOptions, generator: torch.Generator) -> Weights:
    """Draw the online network; there is no predictor."""
    return init_online(n_genes, options.norm, generator)


def begin(
    shared: Weights,
    private: Weights,
    n_cells: int,
    options: MethodOptions,
    generator: torch.Generator,
) -> State:
    """Start a round; nothing stays in the lab."""
    mark_trainable(shared)
    return State(shared, private)


def step(state: State, views: Tensor, descend: Descend, options: MethodOptions) -> Tensor:
    """Take one step on NT-Xent over the batch's 2B − 2 negatives per view."""
    temperature = options.temperature or TEMPERATURE
    z = project(state.shared, views, share=state.share)
    loss = nt_xent(z[..., 0, :], z[..., 1, :], temperature, state.share)
    descend(loss)
    return loss.detach()


OBJECTIVE = Objective(init, begin, step, stacks=True)
