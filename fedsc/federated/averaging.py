"""One model from many: FedAvg, or what a few lying labs cannot move far.

FedAvg is the cell-weighted mean (McMahan et al. 2017; FedSC §3.3). The median and the trimmed mean
take each coordinate by itself and every lab alike (Yin et al. 2018, "Byzantine-robust distributed
learning: towards optimal statistical rates", definitions 1 and 2): weights would be the lab's word.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Arrays = dict[str, np.ndarray]
"""Named weights as they travel: float32, one entry per tensor of the model."""


def average(
    updates: Sequence[Arrays],
    n_cells: Sequence[int],
    rule: Literal["mean", "median", "trimmed-mean"] = "mean",
    trim: float = 0.1,
) -> Arrays:
    """Average by a rule.

    Parameters
    ----------
    updates
        The labs' weights, equal in names and shapes, sorted by lab.
    n_cells
        Cells N_k behind each update, all positive; they count under ``"mean"`` alone.
    rule
        Which average.
    trim
        Share of the updates that the trimmed mean leaves out at either end, from 0 to 1/2.

    Returns
    -------
    Arrays
        float32, same names and shapes.

    Raises
    ------
    ValueError
        As :func:`fedavg`.
    """
    if rule == "mean":
        return fedavg(updates, n_cells)
    cut = trimmed(len(updates), 0.5 if rule == "median" else trim)
    _refuse_unlike(updates, n_cells)
    averages: Arrays = {}
    for name in updates[0]:
        ordered = np.sort(np.stack([update[name] for update in updates]).astype(np.float64), axis=0)
        averages[name] = ordered[cut : len(updates) - cut].mean(axis=0).astype(np.float32)
    return averages


def trimmed(updates: int, share: float) -> int:
    """Give how many updates are left out at either end: rounded up, and one or two are left.

    Rounded down, a tenth of four labs would be none, and the mean no more robust than any. With
    a share of 1/2 what is left is the middle one, or the middle two: the median.
    """
    return min(math.ceil(share * updates), (updates - 1) // 2)


def fedavg(updates: Sequence[Arrays], n_cells: Sequence[int]) -> Arrays:
    """Average parameters and batch-norm statistics with weights N_k / N.

    Sums run in float64 in the given order, so sort by lab to make them reproducible.

    Parameters
    ----------
    updates
        The labs' weights, equal in names and shapes.
    n_cells
        Cells N_k behind each update, all positive.

    Returns
    -------
    Arrays
        float32, same names and shapes.

    Raises
    ------
    ValueError
        If there is nothing to average, a count is not positive, or the updates do not fit together.
    """
    _refuse_unlike(updates, n_cells)
    total = sum(n_cells)
    shares = [n / total for n in n_cells]
    return {name: mix([u[name] for u in updates], shares) for name in updates[0]}


def mix(arrays: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Add shares of arrays in the given order, in float64.

    Block by block, so that what is in between stays in the processor's cache.

    Returns
    -------
    np.ndarray
        float32, of the arrays' shape.
    """
    mixed = np.empty(arrays[0].shape, dtype=np.float32)
    result, flat = mixed.reshape(-1), [array.reshape(-1) for array in arrays]
    sums, parts = np.empty((2, min(_BLOCK, mixed.size)), dtype=np.float64)
    for start in range(0, mixed.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        total, part = (scratch[: len(result[block])] for scratch in (sums, parts))
        total[...] = 0.0
        for array, share in zip(flat, shares, strict=True):
            part[...] = array[block]
            part *= share
            total += part
        result[block] = total
    return mixed


_BLOCK = 2**14


def _refuse_unlike(updates: Sequence[Arrays], n_cells: Sequence[int]) -> None:
    if not updates or len(updates) != len(n_cells) or min(n_cells) <= 0:
        raise ValueError(f"cannot average {len(updates)} updates of {list(n_cells)} cells")
    if any(update.keys() != updates[0].keys() for update in updates):
        raise ValueError("updates differ in their tensors")
    for name, first in updates[0].items():
        for update in updates:
            if update[name].shape != first.shape:
                raise ValueError(f"{name}: shapes {first.shape} and {update[name].shape}")
