"""Expression data as every part of the project passes it on: validated, sparse, named."""

import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.groups import batches_of, group_names
from fedsc.data.rows import Rows, row_totals

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["counts", "lognorm"]

LONGEST_NAME = 200
"""Letters of a gene's or a cell type's name."""

_UNSEEN = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories; a no-break space is none of them


def control_characters(text: str) -> list[str]:
    """List those in a text, line ends too, sorted: names travel one a line, and into files."""
    return sorted(letter for letter in set(text) if unicodedata.category(letter) in _UNSEEN)


@dataclass(frozen=True, eq=False)
class _Annotated:
    """What is known of cells, wherever their values lie.

    Attributes
    ----------
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

    genes: np.ndarray
    cells: np.ndarray
    obs: "pd.DataFrame"
    kind: Kind
    label_key: str = field(default="", kw_only=True)
    columns: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def labels(self) -> np.ndarray | None:
        """Cell types as strings; "" where one is missing, ``None`` when none are known."""
        return group_names(self.obs[self.label_key]) if self.label_key else None

    def batches(self, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Number the batch of every cell, as :func:`~fedsc.data.groups.batches_of`."""
        return batches_of(self.obs, column)

    def _named(self, rows: np.ndarray) -> dict[str, Any]:
        return {"cells": self.cells[rows], "obs": self.obs.iloc[rows]}


@dataclass(frozen=True, eq=False)
class Expression(_Annotated):
    """Cells of one lab or one file.

    Attributes
    ----------
    matrix
        float32 CSR, cells × genes, no explicit zeros; raw counts or log-normalised values.
    """

    matrix: csr_matrix

    @property
    def totals(self) -> np.ndarray:
        """Sum of every cell's values, float64 (cells,)."""
        return row_totals(self.matrix)

    def subset(self, rows: np.ndarray) -> "Expression":
        """Keep some cells, in the given order."""
        return replace(self, matrix=self.matrix[rows], **self._named(rows))


@dataclass(frozen=True, eq=False)
class OnDisk(_Annotated):
    """Cells of a large file: names and annotation in memory, values on disk.

    Attributes
    ----------
    rows
        cells × genes, validated, without explicit zeros; raw counts or log-normalised values.
    folder
        Where there is room for what is made of them.
    """

    rows: Rows
    folder: Path

    @property
    def totals(self) -> np.ndarray:
        """Sum of every cell's values, float64 (cells,)."""
        return self.rows.totals

    def subset(self, rows: np.ndarray) -> "OnDisk":
        """Keep some cells, in the given order; their values stay where they are."""
        return replace(self, rows=self.rows.take(rows), **self._named(rows))


LabCells = Expression | OnDisk
"""Cells of a lab, in memory or on disk."""
