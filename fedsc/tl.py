"""The centralised methods from Python, scanpy style: AnnData in, results written into it.

>>> import fedsc.tl
>>> fedsc.tl.contrastive_sc(adata, preset="steady", overrides={"epochs": 50})
>>> adata.obsm["X_contrastive_sc"], adata.obs["contrastive_sc"], adata.uns["contrastive_sc"]
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.baselines.fitting import fit
from fedsc.baselines.method import Progress, Settings
from fedsc.baselines.outcome import additions_of
from fedsc.data.expression import Expression
from fedsc.data.reading.validate import label_problems, name_problems, value_problems
from fedsc.errors import DataError

if TYPE_CHECKING:
    import anndata


class Options(TypedDict, total=False):
    """What every function here takes besides the AnnData.

    Attributes
    ----------
    k
        Number of clusters; ``"auto"`` (default) lets Leiden on the embedding choose, ``"true"``
        takes it from the labels, and the record says so.
    resolution
        Of Leiden, default 0.5.
    layer
        ``""`` = ``adata.X``, ``"raw"`` = ``adata.raw``, else a layer's name.
    label_key
        Column of ``obs`` with cell types; scores go into the record.
    preset, overrides
        A preset of the method (default its first), and single values of it by name.
    seed
        Moves every draw, default 0.
    device
        Torch device, default ``"cpu"``.
    checkpoint
        Folder where a long fit keeps what it has; another call with the same options goes on.
    progress
        Called as ``progress(phase, done, total, figures)``.
    """

    k: int | str
    resolution: float
    layer: str
    label_key: str
    preset: str
    overrides: dict[str, Any]
    seed: int
    device: str
    checkpoint: Path | None
    progress: Progress


def pca(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """Principal components and k-means; presets ``practitioner`` and ``published``."""
    _fit("pca", adata, options)


def leiden(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """Leiden on 50 principal components of 2000 genes; takes no ``k``.

    ``preset="scanpy"`` is scanpy's own route, with igraph.
    """
    _fit("leiden", adata, options)


def nmf(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """scRNA: NMF of the counts; ``overrides={"source": FILE}`` transfers from another set."""
    _fit("nmf", adata, options)


def contrastive_sc(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """contrastive-sc; presets ``paper`` and ``steady``."""
    _fit("contrastive-sc", adata, options)


def mask_sc(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """mask-sc; presets ``tiny``, ``small`` and ``base`` (the paper's)."""
    _fit("mask-sc", adata, options)


def mask_sc_mlp(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """mask-sc's appendix: a masked MLP autoencoder."""
    _fit("mask-sc-mlp", adata, options)


def scdeepcluster(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """scDeepCluster, on raw counts."""
    _fit("scdeepcluster", adata, options)


def sczidesk(adata: "anndata.AnnData", **options: Unpack[Options]) -> None:
    """scziDesk, on raw counts."""
    _fit("sczidesk", adata, options)


def _fit(method: str, adata: "anndata.AnnData", options: Options) -> None:
    chosen: dict[str, Any] = dict(options)
    k, layer = chosen.pop("k", "auto"), chosen.pop("layer", "")
    expression = _expression_of(adata, layer, chosen.pop("label_key", ""))
    fitted = fit(method, expression, Settings(**chosen), k)
    additions_of(fitted, {"layer": layer}).add_to(adata)


def _expression_of(adata: "anndata.AnnData", layer: str, label_key: str) -> Expression:
    """Validate an AnnData in memory as :func:`fedsc.data.reading.read.read` does a file.

    Parameters
    ----------
    adata
        Not modified.
    layer
        ``""`` for ``X``, ``"raw"`` for ``adata.raw``, else a layer's name.
    label_key
        Column of ``obs`` with cell types, or ``""``.

    Raises
    ------
    DataError
        With one line per problem.
    """
    if layer == "raw" and adata.raw is None:
        raise DataError("there is no adata.raw; leave layer = 'raw' out")
    if layer not in ("", "raw") and layer not in adata.layers:
        known = ", ".join(adata.layers) or "none"
        raise DataError(f"there is no layer '{layer}'; adata.layers has: {known}")
    values = adata.raw.X if layer == "raw" else adata.layers[layer] if layer else adata.X
    if values is None:
        raise DataError("adata.X is empty; name the layer that holds counts")
    names = adata.raw.var_names if layer == "raw" else adata.var_names
    genes, cells = names.to_numpy(dtype=object), adata.obs_names.to_numpy(dtype=object)
    obs = adata.obs.copy()
    problems = name_problems(genes, cells) + label_problems(obs, label_key)
    matrix = csr_matrix(values, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    kind = None
    if min(matrix.shape):
        kind, found = value_problems(matrix, "adata", cells, genes, {})
        problems += found
    if problems or kind is None:
        raise DataError("\n".join(problems))
    return Expression(matrix, genes, cells, obs, kind, label_key)
