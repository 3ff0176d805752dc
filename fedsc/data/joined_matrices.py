"""A matrix of all labs' files as one on disk, read and written a block of cells at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.reading.read import explained
from fedsc.data.reading.safe_hdf5 import refuse_large, refuse_unwritten
from fedsc.data.reading.stored import SLAB
from fedsc.errors import DataError

_CHUNK = 2**16  # values of a dataset compressed together


@dataclass(frozen=True)
class _Part:
    """A matrix in one lab's file.

    Attributes
    ----------
    node
        Where it lies; ``None`` = the file has none of this name.
    n_cells
        Rows.
    columns
        Where each of its genes goes, int (own genes,).
    """

    node: h5py.Group | h5py.Dataset | None
    n_cells: int
    columns: np.ndarray

    def blocks(self, dtype: np.dtype, width: int, fill: float) -> Iterator[np.ndarray | csr_matrix]:
        """Give the rows from first to last, (some rows, ``width``); dense ones as an array."""
        with explained():
            yield from self._blocks(dtype, width, fill)

    def _blocks(
        self, dtype: np.dtype, width: int, fill: float
    ) -> Iterator[np.ndarray | csr_matrix]:
        if self.node is None:
            step = max(1, SLAB // max(1, width))
            for start in range(0, self.n_cells, step):
                rows = min(step, self.n_cells - start)
                yield np.full((rows, width), fill, dtype)
        elif isinstance(self.node, h5py.Dataset):
            yield from self._dense(self.node, dtype, width, fill)
        else:
            yield from self._sparse(self.node, dtype, width)

    def _dense(
        self, values: h5py.Dataset, dtype: np.dtype, width: int, fill: float
    ) -> Iterator[np.ndarray]:
        step = max(1, SLAB // max(1, width))
        for start in range(0, self.n_cells, step):
            own = values[start : start + step]
            block = np.full((len(own), width), fill, dtype)
            block[:, self.columns] = own
            yield block

    def _sparse(self, group: h5py.Group, dtype: np.dtype, width: int) -> Iterator[csr_matrix]:
        from anndata.io import read_elem

        if group.attrs["encoding-type"] == "csc_matrix":
            refuse_large(group, group)  # its values, and again sorted by cell
            by_cell = csr_matrix(read_elem(group))
            ends, data, indices = by_cell.indptr, by_cell.data, by_cell.indices
        else:
            ends, data, indices = group["indptr"][:], group["data"], group["indices"]
        row = 0
        while row < self.n_cells:
            # As many rows as a slab holds, but one at least.
            stop = max(row + 1, int(np.searchsorted(ends, ends[row] + SLAB, side="right")) - 1)
            values = slice(int(ends[row]), int(ends[stop]))
            genes = indices[values]
            if genes.min(initial=0) < 0:
                raise DataError(f"{group.name} has a gene before the first: the file is damaged")
            arrays = (
                data[values].astype(dtype),
                self.columns[genes],
                ends[row : stop + 1] - ends[row],
            )
            block = csr_matrix(arrays, (stop - row, width))
            block.check_format(full_check=True)
            block.sort_indices()
            yield block
            row = stop


@dataclass(frozen=True)
class JoinedMatrix:
    """A matrix of all labs' files: sparse if it is in one of them."""

    name: str
    parts: tuple[_Part, ...]
    width: int

    @property
    def nodes(self) -> list[h5py.Group | h5py.Dataset]:
        """Where it lies in the files that have it."""
        return [part.node for part in self.parts if part.node is not None]

    @property
    def _is_sparse(self) -> bool:
        return any(isinstance(node, h5py.Group) for node in self.nodes)

    @property
    def _has_gaps(self) -> bool:
        return any(part.node is None or len(part.columns) < self.width for part in self.parts)

    @property
    def _dtype(self) -> np.dtype:
        kinds = [
            node["data"].dtype if isinstance(node, h5py.Group) else node.dtype
            for node in self.nodes
        ]
        if self._has_gaps and not self._is_sparse:
            kinds.append(np.dtype(np.float16))  # the smallest that holds NaN
        return np.result_type(*kinds)

    @property
    def _n_cells(self) -> int:
        return sum(part.n_cells for part in self.parts)

    @property
    def n_bytes(self) -> int:
        """What it takes at most: compressed it takes less."""
        if not self._is_sparse:
            return self._n_cells * self.width * self._dtype.itemsize
        stored = sum(
            len(node["data"]) if isinstance(node, h5py.Group) else int(np.prod(node.shape))
            for node in self.nodes
        )
        return stored * (self._dtype.itemsize + 8) + 8 * (self._n_cells + 1)

    def write(self, file: h5py.File) -> None:
        """Write it, a block of cells at a time."""
        fill = 0.0 if self._is_sparse else np.nan
        dtype = self._dtype
        blocks = (
            block
            for part in self.parts
            for block in part.blocks(dtype, self.width, fill if self._has_gaps else 0)
        )
        (self._write_sparse if self._is_sparse else self._write_dense)(file, blocks, dtype)

    def _write_dense(self, file: h5py.File, blocks: Iterator[np.ndarray], dtype: np.dtype) -> None:
        shape = (self._n_cells, self.width)
        chunks = (max(1, min(shape[0], _CHUNK // max(1, self.width))), max(1, self.width))
        values = file.create_dataset(
            self.name, shape, dtype, chunks=chunks if min(shape) else None, **_compression(shape)
        )
        values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        row = 0
        for block in blocks:
            values[row : row + len(block)] = block
            row += len(block)

    def _write_sparse(
        self, file: h5py.File, blocks: Iterator[np.ndarray | csr_matrix], dtype: np.dtype
    ) -> None:
        group = file.create_group(self.name)
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([self._n_cells, self.width])
        growing = {"shape": (0,), "maxshape": (None,), "chunks": (_CHUNK,), "compression": "gzip"}
        data = group.create_dataset("data", dtype=dtype, **growing)
        index = np.int32 if self.width <= np.iinfo(np.int32).max else np.int64
        indices = group.create_dataset("indices", dtype=index, **growing)
        ends, size = [np.zeros(1, np.int64)], 0
        for block in blocks:
            rows = csr_matrix(block)
            for values, new in ((data, rows.data), (indices, rows.indices)):
                values.resize((size + rows.nnz,))
                values[size:] = new
            ends.append(rows.indptr[1:] + size)
            size += rows.nnz
        group.create_dataset("indptr", data=np.concatenate(ends), compression="gzip")


def _compression(shape: tuple[int, int]) -> dict[str, str]:
    return {"compression": "gzip"} if min(shape) else {}


def joined_matrix(
    name: str,
    opened: Mapping[str, h5py.File],
    places: Mapping[str, str],
    panels: Mapping[str, pd.Index],
    genes: pd.Index,
) -> JoinedMatrix:
    """Describe a matrix of all labs' files.

    Parameters
    ----------
    name
        Under which it is written.
    opened
        The labs' files.
    places
        Where it lies in each; a file may have none there.
    panels
        Names of each lab's genes.
    genes
        Those of all labs.

    Raises
    ------
    DataError
        If what lies there is no matrix of numbers of so many cells and genes.
    """
    parts = []
    for lab, content in opened.items():
        own, node = panels[lab], content.get(places[lab])
        if isinstance(node, h5py.Dataset) and node.shape is None:
            node = None  # so anndata writes what is not there
        n_cells = len(content["obs"][content["obs"].attrs["_index"]])
        if node is not None:
            _refuse_misfit(node, n_cells, len(own))
        # Names that repeat are let be where all labs have the same.
        columns = np.arange(len(own)) if own.equals(genes) else genes.get_indexer(own)
        parts.append(_Part(node, n_cells, columns))
    return JoinedMatrix(name, tuple(parts), len(genes))


def _refuse_misfit(node: h5py.Group | h5py.Dataset, n_cells: int, n_genes: int) -> None:
    """Refuse what is no matrix of numbers of so many cells and genes."""
    is_sparse = isinstance(node, h5py.Group)
    values = node["data"] if is_sparse else node
    shape = tuple(node.attrs["shape"]) if is_sparse else node.shape
    form = node.attrs.get("encoding-type", "array")
    numbers = values.dtype.kind in "biuf"
    if form not in ("array", "csr_matrix", "csc_matrix") or not numbers:
        raise DataError(
            f"{node.name} is stored as '{form}' of {values.dtype}, no matrix of numbers"
        )
    if shape != (n_cells, n_genes):
        size = " × ".join(map(str, shape))
        raise DataError(
            f"{node.name} is {size}, but {n_cells} cells and {n_genes} genes have names: the file "
            "is damaged, write it again"
        )
    for dataset in node.values() if is_sparse else [node]:
        refuse_unwritten(dataset)
