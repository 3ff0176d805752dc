"""The zero-inflated negative binomial of scDeepCluster (Tian et al. 2019, eq. (5)–(7)).

A count is zero with probability π and otherwise negative binomial with mean μ and dispersion θ.
Everything is written in log μ, θ and the logit of π, and without differences of large numbers, so
that float32 suffices at π of 0 or 1, at means near 0 and at dispersions up to the Poisson limit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MEAN, MOST_MEAN = 1e-5, 1e6
LEAST_DISPERSION, MOST_DISPERSION = 1e-4, 1e4
"""Bounds of the decoder's outputs, as in the published code of both methods."""

_MOST_LOGIT = 60.0  # σ(60) is 1 in float32, and so is 1 − σ(−60): nothing is cut that can be seen
_STIRLING_FROM = 30.0


def mean_and_dispersion(mean: Tensor, dispersion: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a decoder's linear outputs into parameters: exp and softplus, bounded.

    Parameters
    ----------
    mean, dispersion
        Linear outputs, float32 (cells, genes).
    sizes
        Library size of every cell over the median one, > 0, (cells,).

    Returns
    -------
    tuple
        log μ, the size in it, and θ; float32 (cells, genes).
    """
    log_mean = mean.clamp(math.log(LEAST_MEAN), math.log(MOST_MEAN)) + sizes.log()[:, None]
    return log_mean, F.softplus(dispersion).clamp(LEAST_DISPERSION, MOST_DISPERSION)


def zinb_nll(
    counts: Tensor, log_mean: Tensor, dispersion: Tensor, dropout: Tensor, ridge: float = 0.0
) -> Tensor:
    """Give the mean negative log-likelihood of counts, with scziDesk's ridge on π.

    Parameters
    ----------
    counts
        Raw counts, float32 (cells, genes).
    log_mean
        log μ of the negative binomial.
    dispersion
        θ > 0; the variance is μ + μ²/θ.
    dropout
        Logit of π.
    ridge
        λ of the penalty λ·π² per entry (scziDesk eq. (8)).

    Returns
    -------
    Tensor
        Scalar, finite for finite input.
    """
    loss = -zinb_log_likelihood(counts, log_mean, dispersion, dropout)
    if ridge:
        loss = loss + ridge * dropout.sigmoid().square()
    return loss.mean()


def zinb_log_likelihood(
    counts: Tensor, log_mean: Tensor, dispersion: Tensor, dropout: Tensor
) -> Tensor:
    """Give log P(count) of every entry, float32 (cells, genes); see :func:`zinb_nll`."""
    logit = dropout.clamp(-_MOST_LOGIT, _MOST_LOGIT)
    log_present = -F.softplus(logit)  # log(1 − π)
    log_zero_nb = -dispersion * torch.log1p(log_mean.exp() / dispersion)
    log_zero = torch.logaddexp(logit, log_zero_nb) + log_present  # log(π + (1 − π)·NB(0))
    # Nine entries in ten are zero, and the gamma functions are what costs: only the rest has them.
    rest = counts.nonzero(as_tuple=True)
    x, theta, log_mu = counts[rest], dispersion[rest], log_mean[rest]
    log_count = (
        log_zero_nb[rest]
        + _log_rising(theta, x)
        + x * (log_mu - torch.log(theta + log_mu.exp()))
        - torch.lgamma(x + 1.0)
        + log_present[rest]
    )
    return log_zero.index_put(rest, log_count)


def _log_rising(theta: Tensor, x: Tensor) -> Tensor:
    """Give log Γ(θ + x) − log Γ(θ); by Stirling's series where the two are large and near."""
    large = theta.clamp_min(_STIRLING_FROM)
    series = (
        (large - 0.5) * torch.log1p(x / large)
        + x * (torch.log(large + x) - 1.0)
        + (1.0 / (large + x) - 1.0 / large) / 12.0
    )
    small = theta.clamp_max(_STIRLING_FROM)
    exact = torch.lgamma(small + x) - torch.lgamma(small)
    return torch.where(theta >= _STIRLING_FROM, series, exact)
