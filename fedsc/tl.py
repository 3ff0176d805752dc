"""Tools, scanpy style: an AnnData in, results written into it.

>>> import fedsc
>>> fedsc.tl.embed(adata, "runs/my-run")
>>> fedsc.tl.contrastive_sc(adata, preset="steady", overrides={"epochs": 50})
>>> adata.obsm["X_fedsc_contrastive_sc"], adata.obs["fedsc_contrastive_sc"]
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from fedsc.baselines.fitting import fit
from fedsc.baselines.method import Progress, Settings, silent
from fedsc.baselines.outcome import additions_of
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.in_memory import expression_of
from fedsc.placement import embed

if TYPE_CHECKING:
    import anndata

__all__ = [
    "contrastive_sc",
    "embed",
    "leiden",
    "mask_sc",
    "mask_sc_mlp",
    "nmf",
    "pca",
    "scdeepcluster",
    "sczidesk",
]


_PARAMETERS = """

    Adds ``obsm["X_fedsc_{key}"]``, the embedding, ``obs["fedsc_{key}"]``, the clusters, and
    ``uns["fedsc_{key}"]``, the record.

    Parameters
    ----------
    adata
        Cells; they get the results.
    k
        Number of clusters; ``"auto"`` lets Leiden on the embedding choose, ``"true"`` takes it
        from the labels, and the record says so.
    resolution
        Of Leiden.
    layer
        ``""`` = ``adata.X``, ``"raw"`` = ``adata.raw``, else a layer's name.
    label_key
        Column of ``obs`` with cell types; scores go into the record.
    symbols
        Column of ``var`` that names the genes; ``""`` = they have the names of ``var``.
    make_unique, fold_case
        Number names of genes and cells that repeat; spell gene names in capitals.
    preset, overrides
        A preset of the method (default its first), and single values of it by name.
    seed
        Moves every draw.
    device
        Torch device.
    checkpoint
        Folder where a long fit keeps what it has; another call with the same options goes on.
    progress
        Called as ``progress(phase, done, total, figures)``.
    copy
        Give a copy with the results and leave ``adata`` as it is.

    Returns
    -------
    AnnData or None
        The copy, if one was wanted.

    Raises
    ------
    DataError
        If the cells cannot be used.
    """


def _fit(
    method: str,
    adata: "anndata.AnnData",
    *,
    k: int | str = "auto",
    resolution: float = 0.5,
    layer: str = "",
    label_key: str = "",
    symbols: str = "",
    make_unique: bool = False,
    fold_case: bool = False,
    preset: str = "",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    copy: bool = False,
) -> "anndata.AnnData | None":
    settings = Settings(
        resolution=resolution,
        preset=preset,
        overrides=dict(overrides or {}),
        seed=seed,
        device=device,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress or silent,
    )
    how = ReadAs(layer, label_key, symbols, make_unique, fold_case)
    fitted = fit(method, expression_of(adata, how), settings, k)
    target = adata.copy() if copy else adata
    additions_of(fitted, asdict(how)).add_to(target)
    return target if copy else None


P = ParamSpec("P")
R = TypeVar("R")


def _function(fit: Callable[Concatenate[str, P], R], method: str, summary: str) -> Callable[P, R]:
    """Make a method's own function of one that takes all, with its keywords to be seen."""
    key = method.replace("-", "_")

    def function(*arguments: P.args, **keywords: P.kwargs) -> R:
        return fit(method, *arguments, **keywords)

    shown = inspect.signature(fit)
    _, *parameters = shown.parameters.values()
    function.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {n: a for n, a in fit.__annotations__.items() if n != "method"}
    function.__name__ = function.__qualname__ = key
    function.__doc__ = summary + _PARAMETERS.replace("{key}", key)
    return function


pca = _function(
    _fit, "pca", "Principal components and k-means; presets ``practitioner`` and ``published``."
)
leiden = _function(
    _fit,
    "leiden",
    "Leiden on 50 principal components of 2000 genes; takes no ``k``.\n\n"
    '    ``preset="scanpy"`` is scanpy\'s own route, with igraph.',
)
nmf = _function(
    _fit,
    "nmf",
    'scRNA: NMF of the counts; ``overrides={"source": FILE}`` transfers from another set.',
)
contrastive_sc = _function(
    _fit, "contrastive-sc", "contrastive-sc; presets ``paper`` and ``steady``."
)
mask_sc = _function(
    _fit, "mask-sc", "mask-sc; presets ``tiny``, ``small`` and ``base`` (the paper's)."
)
mask_sc_mlp = _function(_fit, "mask-sc-mlp", "mask-sc's appendix: a masked MLP autoencoder.")
scdeepcluster = _function(_fit, "scdeepcluster", "scDeepCluster, on raw counts.")
sczidesk = _function(_fit, "sczidesk", "scziDesk, on raw counts.")
