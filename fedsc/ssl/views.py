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
        Probability that a value is dropped, ``0 <= rate < 1``.
    generator
        Source of the mask, on ``x``'s device.

    Returns
    -------
    Tensor
        float32 (cells, genes); its expectation is ``x``.
    """
    keep = torch.rand(x.shape, generator=generator, device=x.device).ge_(rate)
    return keep.mul_(x).div_(1.0 - rate)
