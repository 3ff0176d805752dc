"""What a reader found in a file, before anyone has judged it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.genes import fold_case
from fedsc.data.reading.stored import Stored


@dataclass(frozen=True)
class Contents:
    """One matrix of a file with its names.

    Attributes
    ----------
    matrix
        cells × columns; in memory, or still in the (open) file.
    genes
        Names of the columns that are genes, (genes,).
    cells
        Names of the rows, (cells,).
    obs
        Annotation of the cells, (cells, annotations).
    name
        What a message calls the matrix.
    columns
        bool, which columns are genes; ``None`` when all are.
    label_key
        Column with cell types, where the format itself says so.
    others
        The file's other matrices under the ``layer`` that chooses them.
    notes
        Sentences on what is unusual but no fault.
    var_names
        How the file names its genes, (genes,), where ``genes`` are from another column.
    """

    matrix: csr_matrix | Stored
    genes: np.ndarray
    cells: np.ndarray
    obs: pd.DataFrame
    name: str = "the matrix"
    columns: np.ndarray | None = None
    label_key: str = ""
    others: Mapping[str, Stored] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    var_names: np.ndarray | None = None


def layer_name(layer: str) -> str:
    """Say in a message which matrix ``layer`` chooses."""
    return {"": "X", "raw": "adata.raw"}.get(layer, f"layer '{layer}'")


def positional(prefix: str, count: int) -> np.ndarray:
    """Name things by position where the file names none: ``g0, g1, …``."""
    return np.array([f"{prefix}{i}" for i in range(count)], dtype=object)


def name_genes(symbols: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Name genes by symbol, and by identifier where several genes share a symbol.

    Reference genomes do repeat some symbols. The identifier tells those genes apart in the same
    way in every lab, which a suffix by position ("TBCE-1") does not.

    Parameters
    ----------
    symbols, ids
        Gene symbols and identifiers, (genes,) each.

    Returns
    -------
    names, notes
        Names, (genes,), and a sentence if any identifier was used.
    """
    repeated = pd.Series(symbols).duplicated(keep=False).to_numpy()
    names = np.where(repeated, ids, symbols).astype(object)
    if not repeated.any():
        return names, ()
    return names, (
        f"{repeated.sum()} genes share their symbol with another ({symbols[repeated][0]}, …) and "
        f"are called by their identifier ({ids[repeated][0]}, …)",
    )


def folded(
    genes: np.ndarray, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Spell gene names in capitals (see :func:`fedsc.data.genes.fold_case`).

    Parameters
    ----------
    genes
        Names, (genes,).
    own
        How the file names them, where that is not the same.

    Returns
    -------
    names, own, notes
        Names, (genes,); how the file names them, where that is not the same; what was done.
    """
    names = fold_case(genes)
    changed = int((names != genes).sum())
    if not changed:
        return genes, own, ()
    note = f"{changed} gene names are spelt in capitals (fold-case)"
    return names, genes if own is None else own, (note,)


def only_genes(kinds: np.ndarray | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Choose the gene expression among 10x's feature types.

    Parameters
    ----------
    kinds
        Feature type of every column, or ``None`` where the file does not say.

    Returns
    -------
    columns, notes
        bool (columns,), or ``None`` for all; and a sentence on what was left out.
    """
    if kinds is None:
        return None, ()
    columns = kinds == "Gene Expression"
    if columns.all() or not columns.any():  # some pipelines use words of their own
        return None, ()
    left_out = ", ".join(f"{n} of {kind}" for kind, n in _tally(kinds[~columns]).items())
    return columns, (f"only gene expression is read; features left out: {left_out}",)


def _tally(values: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(values.astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
