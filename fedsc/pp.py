"""What is done to cells before a run, scanpy style: an AnnData in, changed in place.

>>> fedsc.pp.use_symbols(adata, "feature_name")
>>> fedsc.pp.highly_variable_genes({"A": adata_a, "B": adata_b}, n_genes=2000)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from fedsc.config import Config
from fedsc.data.aligned import align
from fedsc.data.reading.hdf5 import named_genes
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.in_memory import expression_of
from fedsc.errors import DataError
from fedsc.federated.preprocessing import fit_preprocessing

if TYPE_CHECKING:
    import anndata

__all__ = ["highly_variable_genes", "use_symbols"]


def use_symbols(
    adata: "anndata.AnnData", column: str, *, copy: bool = False
) -> "anndata.AnnData | None":
    """Name genes by a column of ``var``, as labs that are to be joined must name them alike.

    A gene without a name there, and genes that share one, keep their own name: it tells them apart
    in the same way in every lab. The names from before go to ``var["fedsc_own_name"]``.

    Parameters
    ----------
    adata
        Its ``var_names`` are changed.
    column
        Column of ``var``.
    copy
        Give a copy and leave ``adata`` as it is.

    Returns
    -------
    AnnData or None
        The copy, if one was wanted.

    Raises
    ------
    DataError
        If there is no such column.
    """
    names, own, _ = named_genes(adata.var, column)
    target = adata.copy() if copy else adata
    target.var["fedsc_own_name"] = own
    target.var_names = names.astype(str)
    return target if copy else None


def highly_variable_genes(
    labs: Mapping[str, "anndata.AnnData"],
    *,
    n_genes: int = 2000,
    layer: str = "",
    genes: Literal["intersection", "union"] = "intersection",
    flavor: Literal["seurat", "seurat_v3"] = "seurat",
    target_sum: float = 0.0,
    min_shared_genes: int = 100,
    copy: bool = False,
) -> "dict[str, anndata.AnnData] | None":
    """Choose the genes that vary most over all labs, from sums, as a run does.

    Adds ``var["highly_variable"]`` and, of the chosen genes, the pool's ``var["fedsc_mean"]`` and
    ``var["fedsc_std"]`` of log-normalised values (NaN elsewhere). With ``layer = "raw"`` genes that
    only ``raw`` has may be chosen; ``var`` has no place for them.

    Parameters
    ----------
    labs
        Cells of each lab, by its name.
    n_genes
        How many genes.
    layer
        ``""`` for ``X``, ``"raw"`` for ``adata.raw``, else a layer's name.
    genes
        Those all labs have measured, or any.
    flavor
        Rule that ranks genes, as scanpy's flavour of that name.
    target_sum
        Library size every cell is scaled to; 0 = the pool's median.
    min_shared_genes
        Labs that share fewer are refused.
    copy
        Give copies and leave ``labs`` as they are.

    Returns
    -------
    dict or None
        The copies by lab, if they were wanted.

    Raises
    ------
    DataError
        If cells cannot be used, or labs cannot be joined.
    """
    if not isinstance(labs, Mapping):
        raise DataError('labs: cells by the name of the lab are wanted, such as {"A": adata}')
    cells = {lab: expression_of(adata, ReadAs(layer)) for lab, adata in sorted(labs.items())}
    options = Config.of(
        n_genes=n_genes,
        hvg=flavor,
        genes=genes,
        target_sum=target_sum,
        min_shared_genes=min_shared_genes,
    ).data
    learnt = fit_preprocessing(cells, options)
    vocabulary = np.array([*learnt.vocabulary, ""], dtype=object)  # −1 is the last
    chosen = {gene: i for i, gene in enumerate(learnt.genes)}
    results = {lab: adata.copy() if copy else adata for lab, adata in labs.items()}
    for lab, adata in results.items():
        names = vocabulary[align(cells[lab], learnt.vocabulary).columns]
        places = pd.Series([chosen.get(name, -1) for name in names], index=cells[lab].genes)
        at = places.reindex(
            adata.var_names, fill_value=-1
        ).to_numpy()  # raw has an order of its own
        adata.var["highly_variable"] = at >= 0
        for name, values in (("fedsc_mean", learnt.mean), ("fedsc_std", learnt.std)):
            adata.var[name] = np.append(values, np.nan)[at]
    return results if copy else None
