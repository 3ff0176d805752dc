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
                block.sum_duplicates()
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


def _element(layer: str) -> str:
    return {"": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
