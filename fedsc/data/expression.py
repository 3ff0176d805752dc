"""Expression data as every part of the project passes it on: validated, sparse, named."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["counts", "lognorm"]


@dataclass(frozen=True)
class Expression:
    """Cells of one lab or one file.

    Attributes
    ----------
    matrix
        float32 CSR, cells × genes, no explicit zeros; raw counts or log-normalised values.
    genes
        Names of the columns, unique, (genes,).
    cells
        Names of the rows, unique, (cells,).
    obs
        Annotation of the cells, indexed by ``cells``.
    kind
        ``"counts"`` for raw counts, ``"lognorm"`` for log1p of normalised counts.
    label_key
        Column of ``obs`` with cell types; ``""`` when none is known.
    columns
        How the file itself names its columns, (genes,), where ``genes`` are other names for them.
    """

    matrix: csr_matrix
    genes: np.ndarray
    cells: np.ndarray
    obs: "pd.DataFrame"
    kind: Kind
    label_key: str = ""
    columns: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """Cell types as strings; "" where one is missing, ``None`` when none are known."""
        if not self.label_key:
            return None
        values = self.obs[self.label_key]
        return np.where(values.isna(), "", values.astype(str))

    def subset(self, rows: np.ndarray) -> "Expression":
        """Keep some cells, in the given order."""
        return replace(
            self, matrix=self.matrix[rows], cells=self.cells[rows], obs=self.obs.iloc[rows]
        )
