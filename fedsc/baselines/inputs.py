"""What the centralised methods start from: encoder input, and raw counts of the same genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix, vstack

from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix, Preprocessing, transform
from fedsc.errors import DataError
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.options import DataOptions

Genes = Annotated[int, Field(ge=0)]
"""Number of highly variable genes in a preset; 0 = every gene with a count."""

Clip = Annotated[float, Field(gt=0)]
"""Largest standardised value in a preset; may be infinite."""


@dataclass(frozen=True)
class Counts:
    """Raw counts of the chosen genes.

    Attributes
    ----------
    matrix
        float32 CSR, cells × genes.
    sizes
        Library size of every cell (over all genes) divided by the median one, float32 (cells,),
        > 0: a cell without counts has the size of one with a single count.
    """

    matrix: csr_matrix
    sizes: np.ndarray


def prepare(
    expression: Expression, n_genes: int, max_value: float
) -> tuple[CellMatrix, Preprocessing]:
    """Learn the preprocessing of one file and apply it.

    Parameters
    ----------
    expression
        Cells of one file.
    n_genes
        Highly variable genes to keep; 0 = every gene with a count.
    max_value
        Clip standardised values at ± this; may be infinite.

    Raises
    ------
    DataError
        If there are fewer than two cells, or nothing was counted.
    """
    if len(expression.cells) < 2:
        raise DataError(f"the file holds {len(expression.cells)} cell; clustering needs at least 2")
    options = DataOptions(n_genes=n_genes or len(expression.genes), max_value=max_value)
    preprocessing = fit_preprocessing([expression], options)
    return transform(expression, preprocessing), preprocessing


def counts_of(expression: Expression, preprocessing: Preprocessing, method: str) -> Counts:
    """Take the raw counts of the chosen genes.

    Parameters
    ----------
    expression
        The cells the preprocessing was learnt from.
    preprocessing
        Its genes and median library size.
    method
        Who asks, for the message.

    Raises
    ------
    DataError
        If the cells hold no raw counts.
    """
    if expression.kind != "counts":
        raise DataError(
            f"{method} models raw counts, and the file holds log-normalised values; "
            "name the layer with counts, e.g. --layer counts or --layer raw"
        )
    matrix = columns(expression, preprocessing.genes)
    sizes = align(expression, preprocessing.vocabulary).sizes
    return Counts(matrix, (np.maximum(sizes, 1.0) / preprocessing.target_sum).astype(np.float32))


def columns(expression: Expression, genes: Sequence[str] | np.ndarray) -> csr_matrix:
    """Give the values of some genes, in their order, float32 CSR, cells × genes."""
    return vstack(list(align(expression, genes).blocks()), format="csr")
