"""Augmentation of both papers: a view of a cell is the cell with most genes dropped."""

import numpy as np
import torch
from torch import Tensor

_LEVELS = 2**16


def masked_views(x: Tensor, rate: float, bits: np.random.SFC64, n: int = 2) -> Tensor:
    """Zero every gene value independently, divide the rest by the kept share (FedSC §3.2).

    Parameters
    ----------
    x
        Standardised expression, float32 (cells, genes).
    rate
        Probability that a value is dropped, ``0 <= rate < 1``; kept to 1 / 65536.
    bits
        Source of the masks (:func:`fedsc.rng.random_bits`); they are the same on every device.
    n
        Views of each cell.

    Returns
    -------
    Tensor
        float32 (cells, n, genes); its expectation is ``x``.
    """
    # 16 random bits decide a value: drawing is a tenth of a training step.
    drop = min(round(rate * _LEVELS), _LEVELS - 1)
    words = -(-x.numel() // 4)
    drawn = bits.random_raw(n * words).astype("<u8", copy=False).view("<u2").reshape(n, -1)
    drawn = drawn[:, : x.numel()].reshape(n, *x.shape).swapaxes(0, 1)
    keep = np.empty(drawn.shape, dtype=np.float32)
    np.greater_equal(drawn, drop, out=keep)
    return torch.from_numpy(keep).to(x).mul_(x.div(1.0 - drop / _LEVELS)[:, None])


def device_views(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Draw two views of each cell where the cells lie; nothing is copied there.

    Parameters
    ----------
    x
        Standardised expression, float32 (…, genes).
    rate
        As :func:`masked_views` takes it.
    generator
        Lives on the device of ``x``; other devices draw other bits.

    Returns
    -------
    Tensor
        float32 (…, 2, genes).
    """
    keep = x.new_empty((*x.shape[:-1], 2, x.shape[-1]))
    keep.bernoulli_(1.0 - rate, generator=generator)
    return keep.mul_(x.div(1.0 - rate).unsqueeze(-2))
