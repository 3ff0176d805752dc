"""How far a lab keeps its own weights when the global model arrives (FedSC §3.3, eqs. 3–4).

Every rule maps a divergence d to a share μ of local weights; :func:`interpolate` applies it. The
rules are pure functions of what the server already holds, so they may run on the server or, when
the server must not see single uploads, in the lab.
"""

import math

from fedsc.federated.averaging import Arrays, mix
from fedsc.federated.limits import squares
from fedsc.models.names import is_buffer
from fedsc.options import MethodOptions


def divergence(global_weights: Arrays, local_weights: Arrays) -> float:
    """Compute d = ‖W_g^o − W_k^o‖₂ (eq. 3): one L2 norm over the online network's parameters.

    The online network is encoder and projector; predictor and batch-norm statistics do not count.
    The bits do not depend on the order of the tensors, which a checkpoint changes.
    """
    return math.sqrt(
        math.fsum(
            squares(tensor, local_weights[name])
            for name, tensor in global_weights.items()
            if name.startswith(("encoder.", "projector.")) and not is_buffer(name)
        )
    )


def fedsc_mu(d: float, alpha: float) -> float:
    """Compute μ = min(α / d, 1) (eq. 4); d = 0 gives 1, as there is nothing to move.

    Geometrically the lab's weights are projected onto the ball of radius α around the global ones.
    """
    return min(alpha / d, 1.0) if d > 0 else 1.0


def fedema_mu(d: float, ema_lambda: float) -> float:
    """Compute FedEMA's μ = min(λ·d, 1) (Zhuang et al. 2022, eq. 4)."""
    return min(ema_lambda * d, 1.0)


def automatic_lambda(d: float, tau: float) -> float:
    """Choose FedEMA's λ once per lab such that its first μ equals τ; d = 0 gives 0."""
    return tau / d if d > 0 else 0.0


def pull_mu(d: float, rule: str, options: MethodOptions, ema_lambda: float) -> float:
    """Give a lab's μ under a rule.

    Parameters
    ----------
    d
        Divergence of the lab's last upload from the new global model, ``>= 0``.
    rule
        ``"fedsc"``, ``"fedema"``, ``"constant"`` or ``"none"``.
    options
        Gives α and the constant μ.
    ema_lambda
        This lab's λ; used by ``"fedema"`` alone.
    """
    if rule == "fedsc":
        return fedsc_mu(d, options.alpha)
    if rule == "fedema":
        return fedema_mu(d, ema_lambda)
    return options.mu if rule == "constant" else 0.0


def interpolate(global_weights: Arrays, local_weights: Arrays, mu: float) -> Arrays:
    """Compute μ·local + (1 − μ)·global for all parameters; buffers are the global model's.

    μ = 0 and μ = 1 return the global and the local parameters bit for bit.
    """
    if mu == 0.0:
        return global_weights
    if mu == 1.0:
        return {n: a if is_buffer(n) else local_weights[n] for n, a in global_weights.items()}
    return {
        name: tensor if is_buffer(name) else mix([local_weights[name], tensor], [mu, 1.0 - mu])
        for name, tensor in global_weights.items()
    }
