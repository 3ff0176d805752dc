"""contrastive-sc (Ciortan & Defrance 2021): NT-Xent between two dropped-out views of a cell.

Encoder genes → 200 → 40 → 60 of FedSC §4.1 without projector; the published code fixes what the
paper leaves open (Adam, cosine of period 500 down to a thousandth, the last batch kept).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster
from fedsc.baselines.dense import all_dense, dense
from fedsc.baselines.inputs import Clip, Genes, prepare
from fedsc.baselines.loop import BatchLoss, Phase, Trained, train
from fedsc.baselines.method import Fitted, Settings
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.leiden import NEIGHBOURS
from fedsc.models.encoder import EMBEDDING, HIDDEN, embed
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import Count, Positive, Rate
from fedsc.rng import random_bits, torch_generator
from fedsc.ssl.losses import nt_xent
from fedsc.ssl.views import masked_views
from fedsc.threads import one_thread

_LEAST_RATE = 1e-3  # of the first learning rate, at the end of the cosine


@dataclass(frozen=True)
class Preset:
    """What contrastive-sc can be told.

    Attributes
    ----------
    learning_rate, period
        Adam's first step size, and the epochs in which a half cosine takes it down.
    epochs, batch_size
        Of the training.
    n_genes, max_value
        Highly variable genes; clip of standardised values.
    mask_rate
        Probability that a view drops a gene.
    temperature
        τ of NT-Xent.
    neighbours
        Cells in a neighbourhood of Leiden's graph; the authors' own is 300, with resolution 1.
    """

    learning_rate: Positive
    epochs: Count
    period: Count = 500
    batch_size: Annotated[int, Field(ge=2)] = 200
    n_genes: Genes = 500
    max_value: Clip = math.inf
    mask_rate: Rate = 0.9
    temperature: Positive = 0.07
    neighbours: Annotated[int, Field(ge=2)] = NEIGHBOURS


PRESETS = {
    "paper": Preset(learning_rate=0.4, epochs=30),
    "steady": Preset(learning_rate=1e-3, epochs=100, max_value=10.0),
}
"""``paper`` is the published one, without a clip; ``steady`` learns more slowly and for longer."""


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Train on one file, embed its cells (encoder output, L2-normalised) and cluster them."""
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    trained = train_encoder(cells, preset, settings)
    embedding = embed_all(trained.weights, cells, settings.device)
    clusters, choice = cluster(embedding, k, settings, neighbours=preset.neighbours)
    record = {"genes": cells.n_genes, "losses": trained.losses, "clusters": choice}
    return Fitted(embedding, clusters, record)


def train_encoder(cells: CellMatrix, preset: Preset, settings: Settings) -> Trained:
    """Train the network ``encoder`` on cells prepared elsewhere."""
    seed, device = settings.seed, settings.device
    start = torch_generator(seed, "contrastive-sc", "init")
    weights = init_mlp("encoder", (cells.n_genes, *HIDDEN, EMBEDDING), "batch", start)

    def loss_of_epoch(number: int) -> BatchLoss:
        masks = random_bits(seed, "contrastive-sc", "masks", number)

        def loss(rows: np.ndarray) -> Tensor:
            x = dense(cells, rows, device)
            views = masked_views(x, preset.mask_rate, masks)
            z = mlp(weights, views, "encoder", training=True)
            return nt_xent(z[:, 0], z[:, 1], preset.temperature)

        return loss

    phase = Phase(
        "contrastive-sc",
        ("contrastive-sc", "batches"),
        cells.n_cells,
        preset.batch_size,
        preset.epochs,
        lambda parameters: torch.optim.Adam(parameters, lr=preset.learning_rate, fused=True),
        rate=lambda epoch, _: learning_rate(preset, epoch),
    )
    return train(phase, weights, loss_of_epoch, settings, fingerprint(cells, preset, seed))


@one_thread()
def embed_all(weights: Weights, cells: CellMatrix, device: str) -> np.ndarray:
    """Embed every cell with the network ``encoder``, float32 (cells, 60), rows of unit length."""
    return torch.cat([embed(weights, x) for x in all_dense(cells, device)]).cpu().numpy()


def learning_rate(preset: Preset, epoch: int) -> float:
    """Give the learning rate of an epoch, from 0: a half cosine down to a thousandth."""
    least = preset.learning_rate * _LEAST_RATE
    cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / preset.period))
    return least + (preset.learning_rate - least) * cosine
