"""An AnnData in memory, validated as a file is."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.expression import Expression
from fedsc.data.reading.contents import folded
from fedsc.data.reading.validate import label_problems, name_problems, value_problems
from fedsc.errors import DataError

if TYPE_CHECKING:
    import anndata


def expression_of(
    adata: "anndata.AnnData",
    layer: str = "",
    label_key: str = "",
    symbols: str = "",
    *,
    fold_case: bool = False,
) -> Expression:
    """Validate an AnnData in memory as :func:`fedsc.data.reading.read.read` does a file.

    Parameters
    ----------
    adata
        Not modified.
    layer
        ``""`` for ``X``, ``"raw"`` for ``adata.raw``, else a layer's name.
    label_key
        Column of ``obs`` with cell types, or ``""``.
    symbols
        Column of ``var`` that names the genes; ``""`` = they have the names of ``var``.
    fold_case
        Whether names of genes are spelt in capitals, so that case does not count.

    Raises
    ------
    DataError
        With one line per problem.
    """
    from fedsc.data.reading.hdf5 import named_genes

    if layer == "raw" and adata.raw is None:
        raise DataError("there is no adata.raw; leave layer = 'raw' out")
    if layer not in ("", "raw") and layer not in adata.layers:
        known = ", ".join(adata.layers) or "none"
        raise DataError(f"there is no layer '{layer}'; adata.layers has: {known}")
    values = adata.raw.X if layer == "raw" else adata.layers[layer] if layer else adata.X
    if values is None:
        raise DataError("adata.X is empty; name the layer that holds counts")
    genes, own, _ = named_genes(adata.raw.var if layer == "raw" else adata.var, symbols)
    if fold_case:
        genes, own, _ = folded(genes, own)
    cells = adata.obs_names.to_numpy(dtype=object)
    obs = adata.obs.copy()
    problems = name_problems(genes, cells) + label_problems(obs, label_key, in_file=False)
    matrix = csr_matrix(values, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    kind = None
    if min(matrix.shape):
        kind, found = value_problems(matrix, "adata", cells, genes, {})
        problems += found
    if problems or kind is None:
        raise DataError("\n".join(problems))
    return Expression(matrix, genes, cells, obs, kind, label_key, own)
