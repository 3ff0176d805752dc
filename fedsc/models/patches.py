"""Cells as matrices of genes, cut into patches (mask-sc §3.1).

Genes fill a side × side matrix row by row; what is left of it is padding. A 4 × 4 patch of the
matrix is one token. Without the image-like embedding ("MED without IME" in mask-sc's Table 2) a
patch is 16 genes in a row.

A layout says which gene lies where. Patches of padding alone are not in it: every cell has the
same padding, so leaving a token out is masking it out of attention and loss, at no cost.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PATCH_SIDE = 4
PATCH = PATCH_SIDE**2


@dataclass(frozen=True)
class Layout:
    """Where each gene of a cell lies.

    Attributes
    ----------
    genes
        int64 (patches, 16): column of the cell's vector, ``n_genes`` where there is padding.
    places
        int64 (patches, 1 or 2): coordinates of the patch, along the row or in the grid.
    n_genes
        Length of a cell's vector.
    """

    genes: Tensor
    places: Tensor
    n_genes: int

    @property
    def n_patches(self) -> int:
        """Number of patches with at least one gene."""
        return len(self.genes)

    @property
    def filled(self) -> Tensor:
        """Bool (patches, 16): a gene, not padding."""
        return self.genes < self.n_genes

    def to(self, device: str) -> "Layout":
        """Move to a device."""
        return Layout(self.genes.to(device), self.places.to(device), self.n_genes)


def matrix_layout(n_genes: int, side: int) -> Layout:
    """Lay genes out in a matrix of 4 × 4 patches.

    Parameters
    ----------
    n_genes
        ``1 <= n_genes <= side**2``.
    side
        Rows and columns of the matrix, a multiple of 4.
    """
    columns = torch.arange(side**2).clamp(max=n_genes).view(side, side)
    grid = side // PATCH_SIDE
    places = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).view(-1, 2)
    return _without_empty(cut(columns), places, n_genes)


def sequence_layout(n_genes: int) -> Layout:
    """Lay genes out in a row of patches of 16."""
    n_patches = -(-n_genes // PATCH)
    columns = torch.arange(n_patches * PATCH).clamp(max=n_genes).view(n_patches, PATCH)
    return _without_empty(columns, torch.arange(n_patches)[:, None], n_genes)


def cut(matrix: Tensor) -> Tensor:
    """Cut matrices (…, side, side) into patches (…, (side / 4)², 16), row by row."""
    *others, side, _ = matrix.shape
    grid = side // PATCH_SIDE
    squares = matrix.reshape(*others, grid, PATCH_SIDE, grid, PATCH_SIDE).transpose(-3, -2)
    return squares.reshape(*others, grid**2, PATCH)


def join(patches: Tensor, side: int) -> Tensor:
    """Put patches (…, (side / 4)², 16) back into matrices (…, side, side)."""
    others, grid = patches.shape[:-2], side // PATCH_SIDE
    squares = patches.reshape(*others, grid, grid, PATCH_SIDE, PATCH_SIDE).transpose(-3, -2)
    return squares.reshape(*others, side, side)


def patches_of(x: Tensor, layout: Layout) -> Tensor:
    """Take the patches of cells.

    Parameters
    ----------
    x
        Standardised expression, float32 (cells, genes).
    layout
        For this number of genes, on the same device.

    Returns
    -------
    Tensor
        float32 (cells, patches, 16), zero where there is padding.
    """
    return F.pad(x, (0, 1))[:, layout.genes]


def on_grid(values: np.ndarray, places: np.ndarray, side: int) -> np.ndarray:
    """Spread one value per patch over the gene matrix; NaN where there is no patch.

    Parameters
    ----------
    values
        float (…, patches).
    places
        int (patches, 2), as in :class:`Layout`.
    side
        Rows and columns of the matrix.

    Returns
    -------
    np.ndarray
        float (…, side, side).
    """
    grid = side // PATCH_SIDE
    patches = np.full((*values.shape[:-1], grid**2), np.nan)
    patches[..., places[:, 0] * grid + places[:, 1]] = values
    return join(torch.from_numpy(patches)[..., None].expand(*patches.shape, PATCH), side).numpy()


def sine_cosine(places: Tensor, width: int) -> Tensor:
    """Give the fixed position of every patch (mask-sc §3.1, as in the masked autoencoder).

    Each coordinate gets an equal share of the channels: sines, then cosines, of the coordinate
    times the frequencies 10000^(−i / n).

    Parameters
    ----------
    places
        int64 (patches, coordinates).
    width
        Channels, a multiple of 2 · coordinates.

    Returns
    -------
    Tensor
        float32 (patches, width).
    """
    count = width // (2 * places.shape[1])
    frequency = 10000.0 ** (-torch.arange(count, dtype=torch.float64, device=places.device) / count)
    angle = places.double()[:, :, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def _without_empty(columns: Tensor, places: Tensor, n_genes: int) -> Layout:
    kept = (columns < n_genes).any(dim=1)
    return Layout(columns[kept], places[kept], n_genes)
