"""Labs' files with results as one, in memory or from disk to disk.

From disk to disk everything but the matrices comes into memory; ``X``, layers and ``raw`` are read
and written a block of cells at a time. (``anndata.experimental.concat_on_disk`` needs dask, and
leaves out ``raw`` and ``uns``.)
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.annotated import pack, reserve
from fedsc.data.reading.read import explained, read_anndata
from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_large, refuse_unwritten
from fedsc.data.reading.stored import SLAB
from fedsc.errors import DataError
from fedsc.files import replacing

if TYPE_CHECKING:
    import anndata

_CHUNK = 2**16  # values of a dataset compressed together


def concat(files: Mapping[str, Path]) -> "anndata.AnnData":
    """Join labs' files with results into one, where their owners may.

    Cells are named ``NAME-LAB`` where two labs name a cell alike. ``obs["fedsc_lab"]`` says whose
    a cell is. Genes are those of any lab; a value nobody measured is 0 in a sparse matrix. Of
    ``uns``, what is the same in all stays, and markers of the first lab, which are the pool's.

    Parameters
    ----------
    files
        ``.h5ad`` files by lab, with results of one run.

    Raises
    ------
    DataError
        If there is none, one cannot be read or has no results, or they are of different runs.
    """
    return _joined(files, {lab: read_anndata(path) for lab, path in files.items()})


def write_joined(files: Mapping[str, Path], output: Path) -> int:
    """Join labs' files as :func:`concat` does, without reading a matrix whole.

    A matrix that a file stores by gene (CSC) is read whole, one file at a time.

    Parameters
    ----------
    files
        As there.
    output
        An ``.h5ad`` file, replaced whole or not at all.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    DataError
        As there.
    RunError
        If it cannot be written.
    """
    from anndata.io import write_elem

    with ExitStack() as stack:
        opened, parts = {}, {}
        for lab, path in files.items():
            with explained():
                opened[lab] = stack.enter_context(open_hdf5(path))
                parts[lab] = _without_matrices(opened[lab])
        joined = _joined(files, parts)
        with explained():
            raw_var = _raw_var(opened)
            raw_genes = None if raw_var is None else raw_var.index
            matrices = _matrices(opened, parts, joined.var_names, raw_genes)
        with replacing(output) as partial:
            partial.write_bytes(pack(joined))
            reserve(partial, sum(matrix.n_bytes for matrix in matrices))
            with h5py.File(partial, "r+") as file:
                if raw_var is not None:
                    raw = file.create_group("raw")
                    raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
                    write_elem(raw, "var", raw_var)
                    write_elem(raw, "varm", {})
                for matrix in matrices:
                    matrix.write(file)
    return int(joined.n_obs)


def _joined(files: Mapping[str, Path], parts: Mapping[str, "anndata.AnnData"]) -> "anndata.AnnData":
    import anndata

    if not parts:
        raise DataError("there are no labs' files: the run was made without, or its labs are real")
    for lab, part in parts.items():
        if "fedsc_cluster" not in part.obs or "fedsc" not in part.uns:
            raise DataError(f"{files[lab]}: has no results of a run")
    models = {str(part.uns["fedsc"].get("model")) for part in parts.values()}
    if len(models) > 1:
        raise DataError(f"the files are of different runs (models {', '.join(sorted(models))})")
    names = pd.Index(np.concatenate([part.obs_names for part in parts.values()]))
    joined = anndata.concat(
        parts,
        label="fedsc_lab",
        join="outer",
        merge="same",
        uns_merge="same",
        index_unique=None if names.is_unique else "-",
    )
    first = next(iter(parts.values()))
    if "rank_genes_groups" in first.uns:
        joined.uns["rank_genes_groups"] = first.uns["rank_genes_groups"]
    categories = first.obs["fedsc_cluster"].cat.categories
    joined.obs["fedsc_cluster"] = pd.Categorical(joined.obs["fedsc_cluster"], categories)
    return joined


def _without_matrices(file: h5py.File) -> "anndata.AnnData":
    """Read what is in a file but its matrices and what is between cells, which is not joined."""
    import anndata
    from anndata.io import read_elem

    kept = [name for name in ("obs", "var", "obsm", "varm", "uns") if name in file]
    refuse_large(*(file[name] for name in kept))
    return anndata.AnnData(**{name: read_elem(file[name]) for name in kept})


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
class _Matrix:
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


def _matrices(
    opened: Mapping[str, h5py.File],
    parts: Mapping[str, "anndata.AnnData"],
    genes: pd.Index,
    raw_genes: pd.Index | None,
) -> list[_Matrix]:
    """List the matrices of the labs' files: those of any lab, ``raw`` if all have one."""
    layers = dict.fromkeys(
        f"layers/{name}" for content in opened.values() for name in content.get("layers", {})
    )
    panels = {lab: part.var_names for lab, part in parts.items()}
    found = [_matrix(name, opened, panels, genes) for name in ("X", *layers)]
    if raw_genes is not None:
        panels = {lab: _names(content["raw/var"]) for lab, content in opened.items()}
        found.append(_matrix("raw/X", opened, panels, raw_genes))
    return [matrix for matrix in found if matrix.nodes]


def _names(annotation: h5py.Group) -> pd.Index:
    from anndata.io import read_elem

    return pd.Index(read_elem(annotation[annotation.attrs["_index"]]))


def _matrix(
    name: str, opened: Mapping[str, h5py.File], panels: Mapping[str, pd.Index], genes: pd.Index
) -> _Matrix:
    parts = []
    for lab, content in opened.items():
        own, node = panels[lab], content.get(name)
        if isinstance(node, h5py.Dataset) and node.shape is None:
            node = None  # so anndata writes what is not there
        n_cells = len(content["obs"][content["obs"].attrs["_index"]])
        if node is not None:
            _refuse_misfit(node, n_cells, len(own))
        # Names that repeat are let be where all labs have the same.
        columns = np.arange(len(own)) if own.equals(genes) else genes.get_indexer(own)
        parts.append(_Part(node, n_cells, columns))
    return _Matrix(name, tuple(parts), len(genes))


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


def _raw_var(opened: Mapping[str, h5py.File]) -> pd.DataFrame | None:
    """Join the annotation of the genes in ``raw``, if all files have that."""
    import anndata
    from anndata.io import read_elem

    if not all(isinstance(content.get("raw"), h5py.Group) for content in opened.values()):
        return None
    refuse_large(*(content["raw/var"] for content in opened.values()))
    bare = [anndata.AnnData(var=read_elem(content["raw/var"])) for content in opened.values()]
    return anndata.concat(bare, join="outer", merge="same").var
