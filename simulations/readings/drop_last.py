"""FedSC whose labs leave out the cells that fill no batch, as ``drop_last`` does in PyTorch.

Every epoch has another order, so it leaves out other cells. A lab with fewer cells than a batch
does not train.
"""

from torch import Tensor

from fedsc.options import MethodOptions, TrainingOptions
from fedsc.ssl import byol
from fedsc.ssl.objective import Descend, Objective, State

BATCH = TrainingOptions().batch_size
"""Of the default options; an objective is not told another."""


def step(state: State, views: Tensor, descend: Descend, options: MethodOptions) -> Tensor:
    """Take BYOL's step on a whole batch, none on a smaller one (its loss counts as 0)."""
    if len(views) < BATCH:
        return views.new_zeros(())
    # The core joins a last cell that is alone to the batch before.
    return byol.step(state, views[:BATCH], descend, options)


OBJECTIVE = Objective(byol.init, byol.begin, step)
