"""contrastive-sc (Ciortan & Defrance 2021): NT-Xent between two dropped-out views of a cell.

Encoder genes → 200 → 40 → 60 of FedSC §4.1 without projector; the published code fixes what the
paper leaves open (Adam, cosine of period 500 down to a thousandth, the last batch kept).
"""

import math
import time
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster
from fedsc.baselines.inputs import Clip, Genes, prepare
from fedsc.baselines.loop import train
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.encoder import EMBEDDING, HIDDEN, embed
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import Count, NonNegative, Positive, Rate
from fedsc.rng import torch_generator
from fedsc.ssl.losses import nt_xent
from fedsc.ssl.objective import Descend
from fedsc.ssl.views import masked_view
from fedsc.training import batches, one_thread

_LEAST_RATE = 1e-3  # of the first learning rate, at the end of the cosine
_ROWS = 4096


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
    """

    learning_rate: Positive
    epochs: Count
    period: Count = 500
    batch_size: Count = 200
    n_genes: Genes = 500
    max_value: Clip = math.inf
    mask_rate: Rate = 0.9
    temperature: NonNegative = 0.07


PRESETS = {
    "paper": Preset(learning_rate=0.4, epochs=30),
    "steady": Preset(learning_rate=1e-3, epochs=100, max_value=10.0),
}
"""``paper`` is the published one, without a clip; ``steady`` learns more slowly and for longer."""


def fit(expression: Expression, settings: Settings) -> Fitted:
    """Train on one file, embed its cells (encoder output, L2-normalised) and cluster them."""
    began = time.monotonic()
    preset = choose(PRESETS, settings)
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    weights, losses = _train(cells, preset, settings)
    embedding = embed_all(weights, cells, settings.device)
    clusters, choice = cluster(embedding, settings)
    record = {
        "preset": asdict(preset),
        "genes": cells.n_genes,
        "losses": losses,
        "clusters": choice,
        "seconds": time.monotonic() - began,
    }
    return Fitted(embedding, clusters, record)


def train_encoder(cells: CellMatrix, settings: Settings) -> Weights:
    """Train the network ``encoder`` on cells prepared elsewhere; on ``settings.device``."""
    weights, _ = _train(cells, choose(PRESETS, settings), settings)
    return weights


@one_thread()
def embed_all(weights: Weights, cells: CellMatrix, device: str) -> np.ndarray:
    """Embed every cell, float32 (cells, 60), rows of unit length."""
    parts = [
        embed(weights, torch.from_numpy(cells.batch(rows)).to(device)).cpu().numpy()
        for rows in np.split(np.arange(cells.n_cells), range(_ROWS, cells.n_cells, _ROWS))
    ]
    return np.concatenate(parts)


def learning_rate(preset: Preset, epoch: int) -> float:
    """Give the learning rate of an epoch, from 0: a half cosine down to a thousandth."""
    least = preset.learning_rate * _LEAST_RATE
    cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / preset.period))
    return least + (preset.learning_rate - least) * cosine


def _train(cells: CellMatrix, preset: Preset, settings: Settings) -> tuple[Weights, list[float]]:
    seed, device = settings.seed, settings.device
    start = torch_generator(seed, "contrastive-sc", "init")
    weights = init_mlp("encoder", (cells.n_genes, *HIDDEN, EMBEDDING), "batch", start)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}

    def optimizer_of(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=preset.learning_rate, fused=True)

    def epoch(number: int, descend: Descend) -> float:
        order = torch_generator(seed, "contrastive-sc", "batches", number)
        masks = torch_generator(seed, "contrastive-sc", "masks", number, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in batches(cells.n_cells, preset.batch_size, order):
            x = torch.from_numpy(cells.batch(rows)).to(device)
            z_1, z_2 = (
                mlp(weights, masked_view(x, preset.mask_rate, masks), "encoder", training=True)
                for _ in range(2)
            )
            loss = nt_xent(z_1, z_2, preset.temperature)
            descend(loss)
            total += loss.detach() * len(rows)
        return float(total) / cells.n_cells

    of = fingerprint(cells, preset, seed)
    losses = train(
        "contrastive-sc",
        weights,
        optimizer_of,
        epoch,
        preset.epochs,
        settings,
        of,
        rate=partial(learning_rate, preset),
    )
    return weights, losses
