"""SGD with momentum, step for step as ``torch.optim.SGD(fused=True)`` and to the same bits.

The class of torch imports torch's compiler on its first use, 1.5 to 3 s of every process that
trains. A lab trains in a new process every round, so only the function beneath it is used.
"""

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """Step along the gradients (Sutskever et al. 2013, in torch's form).

    Parameters
    ----------
    parameters
        Moved in place.
    rate
        Step size; as a tensor on the parameters' device it may change between steps.
    momentum
        Of the velocity; 0 = none.
    weight_decay
        L2 penalty.
    velocities
        Of each parameter, to go on with and moved in place; without them all begin at rest.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        rate: float | Tensor,
        momentum: float,
        weight_decay: float,
        velocities: list[Tensor] | None = None,
    ) -> None:
        self._parameters = parameters
        self._rate = rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocities: dict[int, Tensor | None] = dict(enumerate(velocities or []))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        moved = [(i, p) for i, p in enumerate(self._parameters) if p.grad is not None]
        velocities = [self._velocities.get(i) for i, _ in moved] if self._momentum else []
        sgd(
            [parameter for _, parameter in moved],
            [parameter.grad for _, parameter in moved if parameter.grad is not None],
            velocities,
            fused=True,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self._rate,  # type: ignore[arg-type]  # a tensor too
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if self._momentum:
            self._velocities |= {
                i: velocity for (i, _), velocity in zip(moved, velocities, strict=True)
            }
