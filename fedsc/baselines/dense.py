"""Standardised cells as dense tensors, some at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedsc.data.preprocess import CellMatrix


def dense(cells: CellMatrix, rows: np.ndarray, device: str) -> Tensor:
    """Give the cells of some rows, float32 (rows, genes), on ``device``."""
    return torch.from_numpy(cells.batch(rows)).to(device)


def all_dense(cells: CellMatrix, device: str, size: int = 4096) -> Iterator[Tensor]:
    """Give all cells in order, float32 (at most ``size``, genes) at a time."""
    for first in range(0, cells.n_cells, size):
        yield dense(cells, np.arange(first, min(first + size, cells.n_cells)), device)
