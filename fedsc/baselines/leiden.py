"""Leiden on principal components: scanpy's default route (2000 genes, 50 components)."""

import time
from dataclasses import asdict, dataclass

from fedsc.baselines.clustering import cluster
from fedsc.baselines.inputs import Clip, Genes, prepare
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.pca import dense, principal_components
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError
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
    """

    components: Count = 50
    n_genes: Genes = 2000
    max_value: Clip = 10.0


PRESETS = {"scanpy": Preset()}


def fit(expression: Expression, settings: Settings) -> Fitted:
    """Embed by principal components, cluster by Leiden on their neighbour graph.

    Raises
    ------
    ConfigError
        If a k is given, or preset or overrides are impossible.
    DataError
        If there are too few cells, or nothing that varies.
    """
    began = time.monotonic()
    if settings.k is not None:
        raise ConfigError(
            f"leiden finds the number of clusters itself, so k = {settings.k} cannot be asked of "
            "it; change the resolution, or take pca for k-means on the same components"
        )
    preset = choose(PRESETS, settings)
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    embedding, _ = principal_components(dense(cells), preset.components, settings.seed)
    clusters, choice = cluster(embedding, settings)
    record = {
        "preset": asdict(preset),
        "genes": cells.n_genes,
        "components": embedding.shape[1],
        "clusters": choice,
        "seconds": time.monotonic() - began,
    }
    return Fitted(embedding, clusters, record)
