"""What a reader found in a file, before anyone has judged it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.expression import Kind
from fedsc.data.genes import fold_case
from fedsc.data.reading.how import ReadAs
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
        Column with cell types, where the format itself says so or one was asked for.
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

    def annotated(self, kind: Kind) -> dict[str, Any]:
        """Give what is known of the cells beside their values, once these have been judged."""
        return {
            "genes": self.genes,
            "cells": self.cells,
            "obs": self.obs,
            "kind": kind,
            "label_key": self.label_key,
            "columns": self.var_names,
        }


def layer_name(layer: str) -> str:
    """Say in a message which matrix ``layer`` chooses."""
    return {"": "X", "raw": "adata.raw"}.get(layer, f"layer '{layer}'")


def choosing(layer: str) -> str:
    """Say how ``layer`` is chosen, in words that are right for every command and for a notebook."""
    if not layer:
        return "leave layer out"
    return f"set layer = '{layer}' (--layer {layer}; of fedsc run --set layer={layer})"


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


def repaired(contents: Contents, how: ReadAs) -> Contents:
    """Change names as it was asked for, and say so; the label column is the one asked for, if any.

    See :func:`fedsc.data.genes.fold_case`; names that repeat are numbered as AnnData does.
    """
    contents = replace(contents, label_key=how.label_key or contents.label_key)
    contents = _folded(contents) if how.fold_case else contents
    return _made_unique(contents) if how.make_unique else contents


def _folded(contents: Contents) -> Contents:
    given, own = contents.genes, contents.var_names
    genes = fold_case(given)
    changed = int((genes != given).sum())
    if not changed:
        return contents
    notes = (*contents.notes, f"{changed} gene names are spelt in capitals (fold-case)")
    return replace(contents, genes=genes, var_names=given if own is None else own, notes=notes)


def _made_unique(contents: Contents) -> Contents:
    from anndata.utils import make_index_unique

    notes = list(contents.notes)

    def unique(what: str, given: np.ndarray) -> np.ndarray:
        index = pd.Index(given)
        repeated = int(index.duplicated().sum())
        if not repeated:
            return given
        notes.append(f"{repeated} names of {what} repeated and have got a number at their end")
        return np.asarray(make_index_unique(index), dtype=object)

    genes, cells = unique("genes", contents.genes), unique("cells", contents.cells)
    obs = contents.obs.set_axis(cells)
    return replace(contents, genes=genes, cells=cells, obs=obs, notes=tuple(notes))


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
