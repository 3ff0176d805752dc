"""An AnnData in memory, validated as a file is."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.expression import Expression
from fedsc.data.reading.contents import Contents, repaired
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.data.reading.validate import label_problems, name_problems, value_problems
from fedsc.errors import DataError

if TYPE_CHECKING:
    import anndata


def expression_of(adata: "anndata.AnnData", how: ReadAs = AS_IT_IS) -> Expression:
    """Validate an AnnData in memory as :func:`fedsc.data.reading.read.read` does a file.

    Parameters
    ----------
    adata
        Not modified; one that is backed is read.
    how
        Which of its values, and under which names.

    Raises
    ------
    DataError
        With one line per problem.
    """
    import anndata

    from fedsc.data.reading.hdf5 import named_genes

    if not isinstance(adata, anndata.AnnData):
        raise DataError(f"these are no cells in memory, an AnnData, but {type(adata).__name__}")
    if adata.isbacked:
        adata = adata.to_memory()
    layer = how.layer
    if layer == "raw" and adata.raw is None:
        raise DataError("there is no adata.raw; leave layer = 'raw' out")
    if layer not in ("", "raw") and layer not in adata.layers:
        known = ", ".join(adata.layers) or "none"
        raise DataError(f"there is no layer '{layer}'; adata.layers has: {known}")
    values = adata.raw.X if layer == "raw" else adata.layers[layer] if layer else adata.X
    if values is None:
        raise DataError("adata.X is empty; name the layer that holds counts")
    var = adata.raw.var if layer == "raw" else adata.var
    genes, own, _ = named_genes(var, how.symbols)
    matrix = csr_matrix(values, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    cells, obs = adata.obs_names.to_numpy(dtype=object), adata.obs.copy()
    named = repaired(Contents(matrix, genes, cells, obs, var_names=own), how)
    genes, cells, obs = named.genes, named.cells, named.obs
    problems = name_problems(genes, cells) + label_problems(obs, how.label_key, in_file=False)
    kind = None
    if min(matrix.shape):
        kind, found = value_problems(matrix, "adata", cells, genes, {})
        problems += found
    if problems or kind is None:
        raise DataError("\n".join(problems))
    return Expression(matrix=matrix, **named.annotated(kind))
