"""scziDesk (Chen et al. 2020): ZINB with ridge, weighted soft k-means, self-training on pairs.

Where the paper is silent its published code is followed: both clustering losses act on the latent
of the noisy input, self-training is summed over a batch, and labels are compared every tenth epoch.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines import autoencoder
from fedsc.baselines.assignments import pair_self_training, soft_kmeans, squared_distances
from fedsc.baselines.autoencoder import changed, encode, encode_all, likelihood_loss
from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster
from fedsc.baselines.inputs import Clip, Counts, Genes, counts_of, prepare
from fedsc.baselines.loop import train
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.baselines.scdeepcluster import centres_of
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.mlp import Weights
from fedsc.options import Count, NonNegative, Positive, Share
from fedsc.rng import torch_generator
from fedsc.ssl.objective import Descend
from fedsc.training import batches


@dataclass(frozen=True)
class Preset:
    """What scziDesk can be told.

    Attributes
    ----------
    pretraining_epochs, clustering_epochs
        On the likelihood alone; at most, on all three losses.
    learning_rate, batch_size
        Of Adam.
    tolerance, look_every
        Every so many epochs, stop when a smaller share of the cells changed its label.
    kmeans_weight, self_training_weight
        Of the two clustering losses.
    ridge
        λ of the penalty on the dropout probability.
    noise
        Standard deviation of what is added to the standardised input.
    n_genes, max_value
        Highly variable genes, 0 = all; clip of standardised values.
    """

    pretraining_epochs: Count = 1000
    clustering_epochs: Count = 2000
    learning_rate: Positive = 1e-4
    batch_size: Count = 256
    tolerance: Share = 1e-3
    look_every: Count = 10
    kmeans_weight: NonNegative = 1e-3
    self_training_weight: NonNegative = 1e-3
    ridge: NonNegative = 1.0
    noise: NonNegative = 1.5
    n_genes: Genes = 500
    max_value: Clip = math.inf


PRESETS = {"paper": Preset()}


def fit(expression: Expression, settings: Settings) -> Fitted:
    """Train on one file; the nearest centres are the clusters, the latent cells the embedding.

    Raises
    ------
    ConfigError
        If preset, overrides or k are impossible.
    DataError
        If the file holds no raw counts, or too few cells.
    RunError
        If the checkpoint is of something else.
    """
    began = time.monotonic()
    preset = choose(PRESETS, settings)
    cells, preprocessing = prepare(expression, preset.n_genes, preset.max_value)
    counts = counts_of(expression, preprocessing, "sczidesk")

    def optimizer_of(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=preset.learning_rate, fused=True)

    weights = autoencoder.init(cells.n_genes, settings.seed, settings.device)
    pretraining = autoencoder.pretrain(
        "sczidesk",
        weights,
        cells,
        counts,
        optimizer_of,
        epochs=preset.pretraining_epochs,
        batch_size=preset.batch_size,
        noise=preset.noise,
        ridge=preset.ridge,
        settings=settings,
        of=fingerprint(cells, preset, settings.seed),
    )
    z = encode_all(weights, cells, settings.device)
    first, choice = cluster(z.cpu().numpy(), settings)
    weights["centres"] = centres_of(z, first)
    weights["labels"] = torch.from_numpy(first.astype(np.int64)).to(settings.device)
    losses = train(
        "sczidesk-clustering",
        weights,
        optimizer_of,
        lambda number, descend: _epoch(weights, cells, counts, preset, settings, number, descend),
        preset.clustering_epochs,
        settings,
        fingerprint(cells, preset, settings.seed, settings.k, settings.resolution),
    )

    z = encode_all(weights, cells, settings.device)
    labels = squared_distances(z, weights["centres"]).argmin(dim=1)
    record = {
        "preset": asdict(preset),
        "genes": cells.n_genes,
        "pretraining losses": pretraining,
        "losses": losses,
        "converged": len(losses) < preset.clustering_epochs,
        "clusters": choice | {"first by": choice["by"], "by": "nearest centre"},
        "seconds": time.monotonic() - began,
    }
    return Fitted(z.cpu().numpy(), labels.cpu().numpy(), record, {"before": first})


def _epoch(
    weights: Weights,
    cells: CellMatrix,
    counts: Counts,
    preset: Preset,
    settings: Settings,
    number: int,
    descend: Descend,
) -> float | None:
    """Train one epoch on all three losses; ``None`` once labels stay."""
    device = settings.device
    if number and number % preset.look_every == 0:
        z = encode_all(weights, cells, device)
        labels = squared_distances(z, weights["centres"].detach()).argmin(dim=1)
        if changed(labels, weights["labels"]) < preset.tolerance:
            return None
        weights["labels"] = labels
    order = torch_generator(settings.seed, "sczidesk", "batches", number)
    draws = torch_generator(settings.seed, "sczidesk", "noise", number, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for rows in batches(cells.n_cells, preset.batch_size, order):
        x, raw, sizes = autoencoder.batch_of(cells, counts, rows, device)
        z = encode(weights, autoencoder.noisy(x, preset.noise, draws))
        loss = (
            likelihood_loss(weights, z, raw, sizes, preset.ridge)
            + preset.kmeans_weight * soft_kmeans(z, weights["centres"])
            + preset.self_training_weight * pair_self_training(z)
        )
        descend(loss)
        total += loss.detach() * len(rows)
    return float(total) / cells.n_cells
