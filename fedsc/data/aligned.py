"""A lab's cells in the columns of the vocabulary, read a block of rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.expression import Kind, LabCells, OnDisk
from fedsc.data.genes import match
from fedsc.data.reading.backed import Backed
from fedsc.data.rows import rows_per_block


@dataclass(frozen=True)
class Aligned:
    """Cells of one lab in the columns of the vocabulary.

    Attributes
    ----------
    source
        The lab's cells, in memory or on disk.
    columns
        Where each of the source's genes stands in the vocabulary, −1 for those not in it;
        int64 (genes of the source,).
    n_genes
        Length of the vocabulary V.
    """

    source: LabCells | Backed
    columns: np.ndarray
    n_genes: int

    @property
    def kind(self) -> Kind:
        """Raw counts or log-normalised values."""
        return self.source.kind

    @cached_property
    def measured(self) -> np.ndarray:
        """Whether the lab measured each gene of the vocabulary, bool (V,)."""
        measured = np.zeros(self.n_genes, dtype=bool)
        measured[self.columns[self.columns >= 0]] = True
        return measured

    @cached_property
    def sizes(self) -> np.ndarray:
        """Library size of every cell over the vocabulary, float64 (cells,)."""
        return np.concatenate([np.empty(0), *map(library_sizes, self.blocks())])

    def blocks(self) -> Iterator[csr_matrix]:
        """Give the cells from first to last, float32 CSR of some rows × V."""
        in_place = np.array_equal(self.columns, np.arange(self.n_genes))
        for block in _row_blocks(self.source):
            yield block if in_place else take_columns(block, self.columns, self.n_genes)

    def blocks_with_sizes(self) -> Iterator[tuple[csr_matrix, np.ndarray]]:
        """Give the cells as :meth:`blocks`, with their library sizes."""
        start = 0
        for block in self.blocks():
            yield block, self.sizes[start : start + block.shape[0]]
            start += block.shape[0]


def align(source: LabCells | Backed, vocabulary: Sequence[str] | np.ndarray) -> Aligned:
    """Put a lab's cells into the columns of the vocabulary; nothing is copied yet.

    Parameters
    ----------
    source
        The lab's cells, in memory or on disk.
    vocabulary
        Gene names, unique, (V,); usually of :func:`fedsc.data.genes.agree`.
    """
    return Aligned(source, match(source.genes, vocabulary), len(vocabulary))


def library_sizes(matrix: csr_matrix) -> np.ndarray:
    """Sum every row in float64.

    Parameters
    ----------
    matrix
        CSR, cells × genes.

    Returns
    -------
    np.ndarray
        float64 (cells,).
    """
    # Not matrix.astype, which sorts a matrix that is not.
    arrays = matrix.data.astype(np.float64), matrix.indices, matrix.indptr
    return np.asarray(csr_matrix(arrays, shape=matrix.shape) @ np.ones(matrix.shape[1]))


def take_columns(matrix: csr_matrix, columns: np.ndarray, width: int) -> csr_matrix:
    """Move column ``j`` to ``columns[j]``, or drop it where that is negative.

    Parameters
    ----------
    matrix
        CSR, cells × genes.
    columns
        int (genes,); no place below ``width`` is named twice.
    width
        Columns of the result.

    Returns
    -------
    csr_matrix
        cells × ``width``; column indices within a row need not be sorted.
    """
    shape = (matrix.shape[0], width)
    indices = columns.astype(matrix.indices.dtype)[matrix.indices]
    kept = indices >= 0
    if kept.all():
        return csr_matrix((matrix.data, indices, matrix.indptr), shape=shape)
    indptr = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_matrix((matrix.data[kept], indices[kept], indptr), shape=shape)


def _row_blocks(source: LabCells | Backed) -> Iterator[csr_matrix]:
    if isinstance(source, Backed):
        yield from source.blocks()
        return
    if isinstance(source, OnDisk):
        yield from source.rows.blocks()
        return
    matrix = source.matrix
    step = rows_per_block(matrix.shape[0], matrix.nnz)
    for start in range(0, matrix.shape[0], step):
        yield matrix[start : start + step]
