"""The centralised methods from Python, scanpy style: AnnData in, results written into it.

>>> import fedsc.tl
>>> fedsc.tl.contrastive_sc(adata, preset="steady", overrides={"epochs": 50})
>>> adata.obsm["X_contrastive_sc"], adata.obs["contrastive_sc"], adata.uns["contrastive_sc"]
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from fedsc.baselines import METHODS
from fedsc.baselines.method import Progress, Settings, silent
from fedsc.baselines.outcome import annotate, expression_of, plain, require_device, resolve_k, score

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
    """Leiden on 50 principal components of 2000 genes; takes no ``k``."""
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
    require_device(options.get("device", "cpu"))
    expression = expression_of(
        adata, layer=options.get("layer", ""), label_key=options.get("label_key", "")
    )
    k, k_from = resolve_k(options.get("k", "auto"), expression)
    settings = Settings(
        k=k,
        resolution=options.get("resolution", Settings.resolution),
        seed=options.get("seed", 0),
        preset=options.get("preset", ""),
        overrides=options.get("overrides", {}),
        device=options.get("device", "cpu"),
        checkpoint=options.get("checkpoint"),
        progress=options.get("progress", silent),
    )
    fitted = METHODS[method](expression, settings)
    about = {
        "method": method,
        "seed": settings.seed,
        "device": settings.device,
        "layer": options.get("layer", ""),
        "k is": k_from,
        "scores": plain(score(fitted, expression)),
    }
    annotate(adata, method, fitted, about)
