"""SimSiam (Chen & He 2021): BYOL without a moving average, the target is the online network.

The loss is −½(cos + cos), a quarter of BYOL's up to a constant: at the same learning rate SimSiam
takes steps a quarter as long, before momentum and weight decay.
"""

import torch
from torch import Tensor

from fedsc.models.encoder import PROJECTION, init_online, project
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import MethodOptions
from fedsc.ssl.losses import negative_cosine
from fedsc.ssl.objective import Descend, Objective, State, mark_trainable


def init(n_genes: int, options: MethodOptions, generator: torch.Generator) -> Weights:
    """Draw online network and linear predictor 128 → 128, the same bits as BYOL's."""
    return {
        **init_online(n_genes, options.norm, generator),
        **init_mlp("predictor", (PROJECTION, PROJECTION), "none", generator),
    }


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
    """Take one step on eq. (4), both views in both roles.

    The target is the online network's own projection under stop-gradient, so one forward pass of
    each view serves both roles.
    """
    z = project(state.shared, views, share=state.share)
    p = mlp(state.shared, z, "predictor", training=True, share=state.share)
    loss = negative_cosine(p, z.detach().flip(-2), state.share)  # each view predicts the other
    descend(loss)
    return loss.detach()


OBJECTIVE = Objective(init, begin, step, stacks=True)
