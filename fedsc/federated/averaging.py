"""FedAvg (McMahan et al. 2017; FedSC §3.3): the cell-weighted mean of the labs' weights."""

from collections.abc import Sequence

import numpy as np

Arrays = dict[str, np.ndarray]
"""Named weights as they travel: float32, one entry per tensor of the model."""


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
    if not updates or len(updates) != len(n_cells) or min(n_cells) <= 0:
        raise ValueError(f"cannot average {len(updates)} updates of {list(n_cells)} cells")
    if any(update.keys() != updates[0].keys() for update in updates):
        raise ValueError("updates differ in their tensors")
    total = sum(n_cells)
    average: Arrays = {}
    for name, first in updates[0].items():
        mean = np.zeros(first.shape, dtype=np.float64)
        for update, n in zip(updates, n_cells, strict=True):
            if update[name].shape != first.shape:
                raise ValueError(f"{name}: shapes {first.shape} and {update[name].shape}")
            mean += update[name].astype(np.float64) * (n / total)
        average[name] = mean.astype(np.float32)
    return average
