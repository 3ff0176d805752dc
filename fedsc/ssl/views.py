"""Augmentation of both papers: a view of a cell is the cell with most genes dropped."""

import numpy as np
import torch
from torch import Tensor

_LEVELS = 2**16


def masked_view(x: Tensor, rate: float, bits: np.random.SFC64) -> Tensor:
    """Zero every gene value independently, divide the rest by the kept share (FedSC §3.2).

    Parameters
    ----------
    x
        Standardised expression, float32 (cells, genes).
    rate
        Probability that a value is dropped, ``0 <= rate < 1``; kept to 1 / 65536.
    bits
        Source of the mask (:func:`fedsc.rng.random_bits`); the mask is the same on every device.

    Returns
    -------
    Tensor
        float32 (cells, genes); its expectation is ``x``.
    """
    # 16 random bits decide a value: drawing is a tenth of a training step.
    drop = min(round(rate * _LEVELS), _LEVELS - 1)
    drawn = bits.random_raw(-(-x.numel() // 4)).astype("<u8", copy=False).view("<u2")
    keep = np.empty(x.shape, dtype=np.float32)
    np.greater_equal(drawn[: x.numel()].reshape(x.shape), drop, out=keep)
    return (x * torch.from_numpy(keep).to(x.device)).div_(1.0 - drop / _LEVELS)


def device_views(x: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two views at once where the cells lie; nothing is copied there.

    Parameters
    ----------
    x
        Standardised expression, float32 (…, genes).
    rate
        As :func:`masked_view` takes it.
    generator
        Lives on the device of ``x``; other devices draw other bits.

    Returns
    -------
    tuple
        Two tensors like ``x``.
    """
    keep = x.new_empty((2, *x.shape)).bernoulli_(1.0 - rate, generator=generator)
    view_1, view_2 = keep.mul_(x).div_(1.0 - rate)
    return view_1, view_2
