"""scDeepCluster (Tian et al. 2019): a ZINB autoencoder whose latent cells are pulled to centres.

Pretraining on the likelihood, then likelihood + KL(P‖Q), where Q are Student-t assignments to
trained centres and P is Q sharpened over all cells once an epoch, until labels stay.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines import autoencoder
from fedsc.baselines.assignments import kl_divergence, student_t, target_distribution
from fedsc.baselines.autoencoder import changed, encode, encode_all, likelihood_loss
from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster
from fedsc.baselines.inputs import Clip, Counts, Genes, counts_of, prepare
from fedsc.baselines.loop import train
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.mlp import Weights
from fedsc.options import Count, NonNegative, Positive, Share
from fedsc.rng import torch_generator
from fedsc.ssl.objective import Descend
from fedsc.training import batches


@dataclass(frozen=True)
class Preset:
    """What scDeepCluster can be told.

    Attributes
    ----------
    pretraining_epochs, pretraining_rate
        Of Adam (AMSGrad) on the likelihood alone.
    clustering_epochs, clustering_rate
        Most epochs of Adadelta on both losses, and its rate.
    tolerance
        Stop when a smaller share of the cells changed its label.
    clustering_weight
        γ of KL(P‖Q).
    noise
        Standard deviation of what is added to the standardised input.
    batch_size
        Cells per step.
    n_genes, max_value
        Highly variable genes, 0 = all; clip of standardised values.
    """

    pretraining_epochs: Count = 300
    pretraining_rate: Positive = 1e-3
    clustering_epochs: Count = 2000
    clustering_rate: Positive = 1.0
    tolerance: Share = 1e-3
    clustering_weight: NonNegative = 1.0
    noise: NonNegative = 2.5
    batch_size: Count = 256
    n_genes: Genes = 0
    max_value: Clip = math.inf


PRESETS = {"paper": Preset()}


def fit(expression: Expression, settings: Settings) -> Fitted:
    """Train on one file; the centres' labels are the clusters, the latent cells the embedding.

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
    counts = counts_of(expression, preprocessing, "scdeepcluster")

    weights = autoencoder.init(cells.n_genes, settings.seed, settings.device)
    pretraining = autoencoder.pretrain(
        "scdeepcluster",
        weights,
        cells,
        counts,
        lambda parameters: torch.optim.Adam(
            parameters, lr=preset.pretraining_rate, amsgrad=True, fused=True
        ),
        epochs=preset.pretraining_epochs,
        batch_size=preset.batch_size,
        noise=preset.noise,
        ridge=0.0,
        settings=settings,
        of=fingerprint(cells, preset, settings.seed),
    )
    z = encode_all(weights, cells, settings.device)
    first, choice = cluster(z.cpu().numpy(), settings)
    weights["centres"] = centres_of(z, first)
    weights["labels"] = torch.from_numpy(first.astype(np.int64)).to(settings.device)
    losses = _train(weights, cells, counts, preset, settings)

    z = encode_all(weights, cells, settings.device)
    labels = student_t(z, weights["centres"]).argmax(dim=1)
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


def centres_of(z: Tensor, labels: np.ndarray) -> Tensor:
    """Give the mean of every cluster, float32 (k, dimensions), on ``z``'s device."""
    return torch.stack([z[torch.from_numpy(labels == j)].mean(dim=0) for j in np.unique(labels)])


def _train(
    weights: Weights, cells: CellMatrix, counts: Counts, preset: Preset, settings: Settings
) -> list[float]:
    """Train on likelihood and KL together until labels stay; moves ``weights`` along."""
    device, k = settings.device, len(weights["centres"])

    def epoch(number: int, descend: Descend) -> float | None:
        with torch.no_grad():
            q = student_t(encode_all(weights, cells, device), weights["centres"])
        p, labels = target_distribution(q), q.argmax(dim=1)
        if number > 0 and changed(labels, weights["labels"]) < preset.tolerance:
            return None
        weights["labels"] = labels
        order = torch_generator(settings.seed, "scdeepcluster", "batches", number)
        draws = torch_generator(settings.seed, "scdeepcluster", "noise", number, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in batches(cells.n_cells, preset.batch_size, order):
            x, raw, sizes = autoencoder.batch_of(cells, counts, rows, device)
            blurred = encode(weights, autoencoder.noisy(x, preset.noise, draws))
            target = p[torch.from_numpy(rows).to(device)]
            assigned = student_t(encode(weights, x), weights["centres"])
            pull = kl_divergence(target, assigned).mean()
            likelihood = likelihood_loss(weights, blurred, raw, sizes, 0.0)
            loss = likelihood + preset.clustering_weight * pull
            descend(loss)
            total += loss.detach() * len(rows)
        return float(total) / cells.n_cells

    return train(
        "scdeepcluster-clustering",
        weights,
        lambda parameters: torch.optim.Adadelta(parameters, lr=preset.clustering_rate, rho=0.95),
        epoch,
        preset.clustering_epochs,
        settings,
        fingerprint(cells, preset, settings.seed, settings.k, settings.resolution, k),
    )
