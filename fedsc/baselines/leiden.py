"""Leiden on principal components: scanpy's default route (2000 genes, 50 components)."""

from dataclasses import dataclass

import numpy as np

from fedsc.baselines.clustering import cluster
from fedsc.baselines.inputs import Clip, Genes, prepare
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.pca import dense, principal_components
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError
from fedsc.leiden import Flavor
from fedsc.options import Count


@dataclass(frozen=True)
class Preset:
    """What Leiden's route can be told; the resolution is a setting of every method.

    Attributes
    ----------
    components
        Most principal components.
    n_genes, max_value
        Highly variable genes, 0 = all; clip of standardised values.
    flavor
        Whose Leiden (:func:`fedsc.leiden.leiden`).
    batch_key
        Column of ``obs`` with batches that Harmony (harmonypy) brings together first; ``""`` =
        it does not.
    """

    components: Count = 50
    n_genes: Genes = 2000
    max_value: Clip = 10.0
    flavor: Flavor = "graspologic"
    batch_key: str = ""


PRESETS = {"graspologic": Preset(), "scanpy": Preset(flavor="igraph")}
"""``scanpy`` calls scanpy itself; the other comes to clusters as good without igraph (GPL)."""


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Embed by principal components, cluster by Leiden on their neighbour graph.

    Raises
    ------
    ConfigError
        If a k is given, or igraph is wanted and missing.
    DataError
        If there are too few cells, nothing that varies, or the column of batches is not there or
        has gaps.
    """
    refuse_k(k)
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    embedding, _ = principal_components(dense(cells), preset.components, settings.seed)
    if preset.batch_key:
        embedding = _harmony(embedding, expression, preset.batch_key, settings.seed)
    clusters, choice = cluster(embedding, k, settings, preset.flavor)
    record = {
        "genes": cells.n_genes,
        "components": embedding.shape[1],
        "harmony": preset.batch_key,
        "clusters": choice,
    }
    return Fitted(embedding, clusters, record)


def refuse_k(k: int | str | None) -> None:
    """Refuse a number of clusters: the graph decides.

    Raises
    ------
    ConfigError
        If there is one.
    """
    if k is not None:
        raise ConfigError(
            f"leiden finds the number of clusters itself, so k = {k} cannot be asked of "
            "it; change the resolution, or take pca for k-means on the same components"
        )


def _harmony(embedding: np.ndarray, expression: Expression, key: str, seed: int) -> np.ndarray:
    """Bring batches together by the reference implementation, on the pooled cells."""
    try:
        from harmonypy import run_harmony
    except ImportError:
        raise ConfigError("option batch-key needs harmonypy: pip install harmonypy") from None
    codes, names = expression.batches(key)
    batches = {key: np.array(names)[codes]}
    found = run_harmony(embedding, batches, [key], random_state=seed, ncores=1, verbose=False)
    return np.asarray(found.Z_corr, dtype=np.float32)
