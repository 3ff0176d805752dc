"""MoCo in which each view is the query once, and both views' keys are queued.

So it is in the notebook of MoCo's authors (``symmetric``): the loss is the sum of both directions.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsc.models.encoder import project
from fedsc.models.mlp import Weights
from fedsc.options import MethodOptions
from fedsc.ssl import moco
from fedsc.ssl.losses import info_nce
from fedsc.ssl.objective import Descend, Objective, State, move_average


def step(
    state: State,
    views: Tensor,
    descend: Descend,
    options: MethodOptions,
    *,
    temperature: float,
) -> Tensor:
    """Take one step on eq. (1) in both directions, move the key network, then queue all keys."""
    with torch.no_grad():
        keys = F.normalize(project(state.private, views, "key."), dim=2)
    negatives = state.private["queue"][: int(state.private["queue.filled"])]
    queries = project(state.shared, views)
    tau = options.temperature or temperature
    loss = info_nce(queries[:, 0], keys[:, 1], negatives, tau)
    loss = loss + info_nce(queries[:, 1], keys[:, 0], negatives, tau)
    descend(loss)
    move_average(state.private, "key.", state.shared, options.target_momentum)
    _queue(state.private, keys.flatten(0, 1))
    return loss.detach()


def _queue(private: Weights, keys: Tensor) -> None:
    """Put keys before those that are there; the oldest fall out at the end."""
    length = len(private["queue"])
    private["queue"] = torch.cat((keys, private["queue"]))[:length]
    private["queue.filled"].add_(len(keys)).clamp_(max=length)


V1 = Objective(moco.V1.init, moco.V1.begin, partial(step, temperature=0.07))
V2 = Objective(moco.V2.init, moco.V2.begin, partial(step, temperature=0.2))
