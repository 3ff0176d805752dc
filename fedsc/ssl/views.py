"""Augmentation of both papers: a view of a cell is the cell with most genes dropped."""

import torch
from torch import Tensor


def masked_view(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Zero every gene value independently, divide the rest by the kept share (FedSC §3.2).

    Parameters
    ----------
    x
        Standardised expression, float32 (cells, genes).
    rate
        Probability that a value is dropped, ``0 <= rate < 1``; kept to 1 / 65536.
    generator
        Source of the mask, on ``x``'s device.

    Returns
    -------
    Tensor
        float32 (cells, genes); its expectation is ``x``.
    """
    # 16 random bits decide a value: a quarter of the draws that a uniform float each would take,
    # and drawing is a tenth of a training step.
    drop = min(round(rate * _LEVELS), _LEVELS - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)
    keep = bits[: x.numel()].view(x.shape) >= drop - _LEVELS // 2
    return (x * keep).div_(1.0 - drop / _LEVELS)


_LEVELS = 2**16
