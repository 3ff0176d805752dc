"""Files too large for memory: the rows of an ``.h5ad``, a block at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.expression import Kind
from fedsc.data.reading.kind import KIND_NAMES, look_at
from fedsc.data.rows import rows_per_block
from fedsc.errors import DataError


@dataclass(frozen=True)
class Backed:
    """An ``.h5ad`` file that stays on disk; only names are in memory.

    Attributes
    ----------
    path
        The file; it must not change while it is in use.
    layer
        ``""`` for ``X``, else a layer's name.
    genes
        Names of the columns, unique, (genes,).
    n_cells
        Number of rows.
    nonzeros
        Number of stored values.
    kind
        As in :class:`fedsc.data.expression.Expression`.
    """

    path: Path
    layer: str
    genes: np.ndarray
    n_cells: int
    nonzeros: int
    kind: Kind

    def blocks(self) -> Iterator[csr_matrix]:
        """Read the rows from first to last, float32 CSR of some rows × all genes.

        Raises
        ------
        DataError
            If values are not of the kind that the first of them are.
        """
        import h5py
        from anndata.io import sparse_dataset

        step = rows_per_block(self.n_cells, self.nonzeros)
        with h5py.File(self.path) as file:
            rows = sparse_dataset(file[_element(self.layer)])
            for start in range(0, self.n_cells, step):
                block = csr_matrix(rows[start : start + step], dtype=np.float32)
                block.eliminate_zeros()
                found = look_at(block)
                if (
                    found.not_finite
                    or found.negative
                    or (self.kind == "counts" and not found.whole)
                ):
                    raise DataError(
                        f"{self.path}: rows {start} to {start + block.shape[0]} hold values that "
                        f"are no {KIND_NAMES[self.kind]}, as those before them are"
                    )
                yield block


def open_backed(path: Path, kind: Kind, *, layer: str = "") -> Backed:
    """Look into a file without reading its values; nothing is checked about them.

    Raises
    ------
    DataError
        If the matrix is not stored row by row (CSR), or gene names repeat.
    """
    from anndata.io import read_elem

    from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_large

    with open_hdf5(path) as file:
        refuse_large(file.get("var"))
        element = file.get(_element(layer))
        if element is None or element.attrs.get("encoding-type") != "csr_matrix":
            raise DataError(
                f"{path}: {_element(layer)} is not stored as CSR, so its cells cannot be read "
                "block by block; write it again with a scipy csr_matrix"
            )
        genes = read_elem(file["var"]).index.to_numpy(dtype=object)
        n_cells = len(element["indptr"]) - 1
        nonzeros = len(element["data"])
    if len(set(genes)) < len(genes):
        raise DataError(f"{path}: gene names repeat; make them unique (var_names_make_unique)")
    return Backed(path, layer, genes, n_cells, nonzeros, kind)


def _element(layer: str) -> str:
    return {"": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
