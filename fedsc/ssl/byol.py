"""BYOL as in FedSC §3.2: predict a moving-average target's view of the same cell.

``predictor``, ``ema`` and ``stop_gradient`` are the three switches of FedSC's Table 2. Without
the moving average the target *is* the online network; without stop-gradient the target branch is
trained too (by gradient and, if on, by the moving average after it); see
``docs/decisions/0004-ablation-switches.md``.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from fedsc.models.encoder import PROJECTION, init_online, project
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import MethodOptions
from fedsc.ssl.losses import cosine_distance
from fedsc.ssl.objective import Descend, Objective, State, copy_as, mark_trainable, move_average


def init(n_genes: int, options: MethodOptions, generator: torch.Generator) -> Weights:
    """Draw online network and, if on, the linear predictor 128 → 128."""
    online = init_online(n_genes, options.norm, generator)
    if not options.predictor:
        return online
    predictor = init_mlp("predictor", (PROJECTION, PROJECTION), "none", generator)
    return {**online, **predictor}


def begin(
    shared: Weights,
    private: Weights,
    n_cells: int,
    options: MethodOptions,
    generator: torch.Generator,
) -> State:
    """Start a round; W^t begins as a copy of the first W^o received and then stays in the lab."""
    if options.ema and not private:
        private = copy_as("target.", shared)
    mark_trainable(shared)
    if not options.stop_gradient:
        mark_trainable(private)
    return State(shared, private)


def step(state: State, views: Tensor, descend: Descend, options: MethodOptions) -> Tensor:
    """Take one step on eq. (2), both views in both roles, then move the target."""
    z = project(state.shared, views, share=state.share)
    if options.ema:
        with torch.no_grad() if options.stop_gradient else nullcontext():
            target = project(state.private, views, "target.", share=state.share)
    else:  # the target is the online network: its projection of a view serves both roles
        target = z.detach() if options.stop_gradient else z
    p = z
    if options.predictor:
        p = mlp(state.shared, z, "predictor", training=True, share=state.share)
    # Each view predicts the other's target.
    loss = 2.0 * cosine_distance(p, target.flip(-2), state.share)
    descend(loss)
    if options.ema:
        move_average(state.private, "target.", state.shared, options.target_momentum)
    return loss.detach()


OBJECTIVE = Objective(init, begin, step, stacks=True)
