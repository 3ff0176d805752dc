"""A cells × genes matrix that still lies in an HDF5 file, and how it comes into memory.

Every HDF5 format of the field stores either a dense array or the three arrays of a compressed
sparse one. Both are read slab by slab into float32: small integer types are cast before any
arithmetic, a dense array is never whole in memory, a compressed one is there once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, vstack

from fedsc.data.reading.memory import memory_problem
from fedsc.data.reading.safe_hdf5 import refuse_unwritten
from fedsc.errors import DataError

SLAB = 2**22
"""Values read at a time: 16 MiB as float32."""

_SAMPLE = 2**18
_SMALL = 2**26  # bytes not asked about


@dataclass(frozen=True)
class Dense:
    """A two-dimensional dataset.

    Attributes
    ----------
    values
        cells × genes, or genes × cells.
    genes_first
        Whether it is genes × cells, as in loom.
    """

    values: h5py.Dataset
    genes_first: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        rows, columns = self.values.shape
        return (columns, rows) if self.genes_first else (rows, columns)

    def needed_bytes(self) -> int:
        """Estimate the memory :meth:`load` takes from the share of zeros in some rows."""
        cells, genes = self.shape
        starts = np.unique(np.linspace(0, max(cells - 1, 0), 8).astype(int))
        rows = [self._rows(start, start + 1) for start in starts if cells]
        density = sum(row.nnz for row in rows) / max(1, len(rows) * genes)
        # Slabs and the matrix they are stacked into exist together for a moment.
        return 2 * _compressed_bytes(int(density * cells * genes), cells)

    def sample(self) -> csr_matrix:
        """Read some of the first cells."""
        return self._rows(0, max(1, _SAMPLE // max(1, self.shape[1])))

    def load(self) -> csr_matrix:
        """Read everything.

        Returns
        -------
        csr_matrix
            float32, cells × genes, canonical, without explicit zeros.

        Raises
        ------
        DataError
            If the dataset does not hold numbers.
        """
        slabs = list(self.blocks())
        if not slabs:
            return csr_matrix(self.shape, dtype=np.float32)
        return csr_matrix(vstack(slabs, format="csr"))

    def blocks(self) -> Iterator[csr_matrix]:
        """Read the cells from first to last, some at a time, as :meth:`load` gives them.

        Raises
        ------
        DataError
            If the dataset does not hold numbers.
        """
        cells, genes = self.shape
        step = max(1, SLAB // max(1, genes))
        if self.values.chunks:  # whole chunks, or each is decompressed several times
            chunk = self.values.chunks[1 if self.genes_first else 0]
            step = max(1, step // chunk) * chunk
        for start in range(0, cells, step):
            yield self._rows(start, start + step)

    def _rows(self, start: int, stop: int) -> csr_matrix:
        _refuse_text(self.values)
        refuse_unwritten(self.values)
        rows, genes = min(stop, self.shape[0]) - start, self.shape[1]
        _refuse_large(rows * genes * (self.values.dtype.itemsize + 4))
        slab = self.values[:, start:stop].T if self.genes_first else self.values[start:stop]
        with np.errstate(over="ignore"):  # too large for float32 becomes inf, which is reported
            return csr_matrix(slab.astype(np.float32))


@dataclass(frozen=True)
class Compressed:
    """The three datasets of a CSR or CSC matrix, names as in SciPy.

    Attributes
    ----------
    data, indices, indptr
        One-dimensional datasets.
    shape
        Cells and genes.
    by_gene
        Whether ``indptr`` runs over genes (CSC of cells × genes) instead of cells.
    """

    data: h5py.Dataset
    indices: h5py.Dataset
    indptr: h5py.Dataset
    shape: tuple[int, int]
    by_gene: bool = False

    def needed_bytes(self) -> int:
        """Give the memory :meth:`load` takes."""
        needed = _compressed_bytes(len(self.data), self.shape[0])
        return 2 * needed if self.by_gene else needed  # re-sorting by cell makes a copy

    def sample(self) -> csr_matrix:
        """Read some of the first cells (of the first genes, if stored by gene)."""
        ends = self.indptr[: _SAMPLE + 1]
        major = max(1, int(np.searchsorted(ends, _SAMPLE, side="right")) - 1)
        return self._read(min(major, len(ends) - 1))

    def load(self) -> csr_matrix:
        """Read everything.

        Returns
        -------
        csr_matrix
            float32, cells × genes, canonical, without explicit zeros.

        Raises
        ------
        DataError
            If the data are not numbers.
        ValueError
            If the three datasets do not fit each other.
        """
        return self._read(len(self.indptr) - 1)

    def blocks(self) -> Iterator[csr_matrix]:
        """Read the cells from first to last, some at a time, as :meth:`load` gives them.

        Raises
        ------
        DataError, ValueError
            As :meth:`load`, or if the matrix is stored by gene.
        """
        if self.by_gene:
            raise ValueError(f"{self.data.name} is stored by gene and cannot be read by cells")
        starts = self._starts(len(self.indptr) - 1)
        if starts[0] or (np.diff(starts) < 0).any():
            raise ValueError(f"{self.indptr.name} does not ascend from 0")
        first = 0
        while first < len(starts) - 1:
            last = int(np.searchsorted(starts, starts[first] + SLAB, side="right")) - 1
            last = max(last, first + 1)
            yield self._slab(starts[first : last + 1])
            first = last

    def _read(self, major: int) -> csr_matrix:
        return self._slab(self._starts(major))

    def _starts(self, major: int) -> np.ndarray:
        """Give where rows (of CSC: columns) begin and end, int64 (major + 1,), ascending."""
        _refuse_text(self.data)
        for part in (self.data, self.indices, self.indptr):
            refuse_unwritten(part)
        _refuse_large((major + 1) * self.indptr.dtype.itemsize)
        starts: np.ndarray = self.indptr[: major + 1].astype(np.int64)
        size = int(starts[-1])
        if not 0 <= size <= min(len(self.data), len(self.indices)):
            raise DataError(
                f"{self.indptr.name} promises {size:,} values and {self.data.name} holds "
                f"{len(self.data):,}: the file is damaged; copy or make it again"
            )
        return starts

    def _slab(self, starts: np.ndarray) -> csr_matrix:
        """Read some rows (of CSC: columns) that lie one behind the other."""
        begin, size = int(starts[0]), int(starts[-1] - starts[0])
        major = len(starts) - 1
        _refuse_large(2 * _compressed_bytes(size, major))
        index_type = _index_type(size)
        values = np.empty(size, dtype=np.float32)
        indices = np.empty(size, dtype=index_type)
        for start in range(0, size, SLAB):
            slab = slice(start, min(start + SLAB, size))
            stored = slice(begin + slab.start, begin + slab.stop)
            with np.errstate(over="ignore"):  # as in Dense
                values[slab] = self.data[stored]
            indices[slab] = self.indices[stored]
        arrays = (values, indices, (starts - begin).astype(index_type))
        if self.by_gene:
            matrix = csc_matrix(arrays, shape=(self.shape[0], major))
        else:
            matrix = csr_matrix(arrays, shape=(major, self.shape[1]))
        matrix.check_format(full_check=True)  # indices out of range would crash later, in C
        matrix = csr_matrix(matrix)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix


Stored = Dense | Compressed


def _refuse_text(values: h5py.Dataset) -> None:
    if values.dtype.kind not in "biuf":
        raise DataError(f"{values.name} holds {values.dtype}, not numbers")


def _refuse_large(needed: int) -> None:
    if needed > _SMALL and (problem := memory_problem(needed)):
        raise DataError(problem)


def _index_type(size: int) -> type[np.signedinteger]:
    return np.int32 if size <= np.iinfo(np.int32).max else np.int64


def _compressed_bytes(size: int, rows: int) -> int:
    index = np.dtype(_index_type(size)).itemsize
    return size * (4 + index) + (rows + 1) * index
