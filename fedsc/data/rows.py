"""Rows of a sparse matrix in a plain file, read back by any rows and a block at a time.

Compressed files of the field are slow to read and can hardly be read by rows, and an analysis goes
over a lab's cells some ten times. So the rows of a large file are copied once into one that needs
no unpacking: every value with its column, row after row.
"""

import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.errors import DataError

BLOCK = 2**20
"""Non-zeros a block holds on average: about 100 MB at work, with its float64 copies."""

_VALUE = np.dtype([("column", "<i4"), ("value", "<f4")])


class OpenFile:
    """A file that is open for reading as long as this lives, even if its name goes.

    Attributes
    ----------
    path
        Where it was opened.
    descriptor
        Of the system.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a sparse matrix in a file, in any order.

    Attributes
    ----------
    file
        What holds the values.
    starts, counts
        First value of every row in the file, and number of values, int64 (rows,).
    totals
        Sum of every row as ``csr_matrix.sum(axis=1, dtype=float64)`` gives it, float64 (rows,).
    width
        Columns.
    """

    file: OpenFile
    starts: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.starts), self.width

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return int(self.counts.sum())

    def take(self, rows: np.ndarray) -> "Rows":
        """Give some rows in the given order: the same file, nothing is read."""
        return replace(
            self, starts=self.starts[rows], counts=self.counts[rows], totals=self.totals[rows]
        )

    def blocks(self) -> Iterator[csr_matrix]:
        """Read the rows from first to last, float32 CSR of some rows × all columns."""
        n_rows = len(self.starts)
        step = rows_per_block(n_rows, self.nnz)
        for start in range(0, n_rows, step):
            yield self.read(start, min(start + step, n_rows))

    def read(self, start: int, stop: int) -> csr_matrix:
        """Read the rows from ``start`` to before ``stop``.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        first, counts = self.starts[start:stop], self.counts[start:stop]
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        values = np.empty(int(ends[-1]), dtype=_VALUE)
        # Rows that lie one behind the other are read in one piece.
        breaks = np.flatnonzero(first[1:] != first[:-1] + counts[:-1]) + 1
        edges = [0, *breaks.tolist(), len(first)]
        for a, b in pairwise(edges):
            if a < b:
                self._fill(values[ends[a] : ends[b]], int(first[a]))
        columns = np.ascontiguousarray(values["column"])
        if columns.size and not 0 <= columns.min() <= columns.max() < self.width:
            raise DataError(f"{self.file.path} is damaged: remove it, and it is made anew")
        index = np.int32 if ends[-1] <= np.iinfo(np.int32).max else np.int64
        arrays = np.ascontiguousarray(values["value"]), columns, ends.astype(index)
        return csr_matrix(arrays, shape=(len(first), self.width))

    def _fill(self, values: np.ndarray, first: int) -> None:
        wanted, at = values.view(np.uint8).data, first * _VALUE.itemsize
        while len(wanted):
            got = os.preadv(self.file.descriptor, [wanted], at)
            if not got:
                raise DataError(f"{self.file.path} is cut off: remove it, and it is made anew")
            wanted, at = wanted[got:], at + got


def write_rows(path: Path, blocks: Iterable[csr_matrix]) -> tuple[np.ndarray, np.ndarray]:
    """Write rows into a file for :func:`open_rows`.

    Parameters
    ----------
    path
        File to write.
    blocks
        float32, canonical, some rows each, from first to last.

    Returns
    -------
    tuple
        ``counts`` and ``totals`` as of :class:`Rows`.
    """
    counts, totals = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    with path.open("wb") as file:
        for block in blocks:
            values = np.empty(block.nnz, dtype=_VALUE)
            values["column"], values["value"] = block.indices, block.data
            file.write(values.view(np.uint8).data)
            counts.append(np.diff(block.indptr).astype(np.int64))
            totals.append(row_totals(block))
    return np.concatenate(counts), np.concatenate(totals)


def open_rows(path: Path, counts: np.ndarray, totals: np.ndarray, width: int) -> Rows:
    """Open a file that :func:`write_rows` wrote.

    Raises
    ------
    ValueError
        If it has another size than its rows.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    file = OpenFile(path)
    size = os.fstat(file.descriptor).st_size
    if size != (int(ends[-1]) if len(ends) else 0) * _VALUE.itemsize:
        raise ValueError(f"{path.name} has {size} bytes, which its rows have not")
    return Rows(file, ends - counts, counts, totals, width)


def row_totals(matrix: csr_matrix) -> np.ndarray:
    """Sum every row, float64 (rows,)."""
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()


def rows_per_block(n_rows: int, nonzeros: int) -> int:
    """Give the number of rows that hold :data:`BLOCK` non-zeros on average."""
    return max(1, min(n_rows, n_rows * BLOCK // max(nonzeros, 1)))
