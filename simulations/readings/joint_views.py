"""SimCLR whose two views are one batch for batch norm, as its authors' code has it."""

import torch
from torch import Tensor

from fedsc.models.encoder import project
from fedsc.options import MethodOptions
from fedsc.ssl import simclr
from fedsc.ssl.losses import nt_xent
from fedsc.ssl.objective import Descend, Objective, State


def step(state: State, views: Tensor, descend: Descend, options: MethodOptions) -> Tensor:
    """Take one step on NT-Xent; mean and variance are of both views together."""
    z_1, z_2 = project(state.shared, torch.cat(views.unbind(1))).chunk(2)
    loss = nt_xent(z_1, z_2, options.temperature or simclr.TEMPERATURE)
    descend(loss)
    return loss.detach()


OBJECTIVE = Objective(simclr.init, simclr.begin, step)
