"""The denoising ZINB autoencoder under scDeepCluster (Tian et al. 2019) and scziDesk (2020).

Encoder genes → 256 → 64 → 32 and decoder back, ReLU between layers, no normalisation; three linear
heads on the decoder's last layer give mean, dispersion and dropout of every gene.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines.inputs import Counts
from fedsc.baselines.loop import train
from fedsc.baselines.method import Settings
from fedsc.baselines.zinb import mean_and_dispersion, zinb_nll
from fedsc.data.preprocess import CellMatrix
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.rng import torch_generator
from fedsc.ssl.objective import Descend
from fedsc.training import batches, one_thread

HIDDEN = (256, 64)
LATENT = 32
_HEADS = ("mean", "dispersion", "dropout")
_ROWS = 4096

Batch = tuple[Tensor, Tensor, Tensor]
"""Standardised expression (cells, genes), counts (cells, genes), size factors (cells,)."""


def init(n_genes: int, seed: int, device: str) -> Weights:
    """Draw the autoencoder's weights."""
    generator = torch_generator(seed, "zinb-autoencoder", "init")
    weights = {
        **init_mlp("encoder", (n_genes, *HIDDEN, LATENT), "none", generator),
        **init_mlp("decoder", (LATENT, *HIDDEN[::-1]), "none", generator),
    }
    for head in _HEADS:
        weights |= init_mlp(head, (HIDDEN[0], n_genes), "none", generator)
    return {name: tensor.to(device) for name, tensor in weights.items()}


def encode(weights: Weights, x: Tensor) -> Tensor:
    """Give the latent cells, float32 (cells, 32)."""
    return mlp(weights, x, "encoder", training=True)


def likelihood_loss(
    weights: Weights, z: Tensor, counts: Tensor, sizes: Tensor, ridge: float
) -> Tensor:
    """Decode latent cells and give the mean ZINB loss of their counts, a scalar."""
    hidden = torch.relu(mlp(weights, z, "decoder", training=True))
    mean, dispersion, dropout = (mlp(weights, hidden, head, training=True) for head in _HEADS)
    log_mean, dispersion = mean_and_dispersion(mean, dispersion, sizes)
    return zinb_nll(counts, log_mean, dispersion, dropout, ridge)


def noisy(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to standardised expression."""
    if sigma == 0.0:
        return x
    return x + sigma * torch.randn(x.shape, generator=generator, device=x.device)


def batch_of(cells: CellMatrix, counts: Counts, rows: np.ndarray, device: str) -> Batch:
    """Make some cells dense."""
    return (
        torch.from_numpy(cells.batch(rows)).to(device),
        torch.from_numpy(counts.matrix[rows].toarray()).to(device),
        torch.from_numpy(counts.sizes[rows]).to(device),
    )


@one_thread()
@torch.no_grad()
def encode_all(weights: Weights, cells: CellMatrix, device: str) -> Tensor:
    """Encode every cell without noise, float32 (cells, 32), on ``device``."""
    parts = [
        encode(weights, torch.from_numpy(cells.batch(rows)).to(device))
        for rows in np.split(np.arange(cells.n_cells), range(_ROWS, cells.n_cells, _ROWS))
    ]
    return torch.cat(parts)


def pretrain(
    method: str,
    weights: Weights,
    cells: CellMatrix,
    counts: Counts,
    optimizer_of: Callable[[list[Tensor]], torch.optim.Optimizer],
    *,
    epochs: int,
    batch_size: int,
    noise: float,
    ridge: float,
    settings: Settings,
    of: str,
) -> list[float]:
    """Train the autoencoder alone; moves ``weights`` along and gives the loss of every epoch.

    Parameters
    ----------
    method
        Name of the method, part of the checkpoint's name.
    weights
        From :func:`init`.
    cells, counts
        The same cells and genes, standardised and raw.
    optimizer_of
        Makes the optimiser.
    epochs, batch_size, noise, ridge
        Of the method's preset.
    settings
        Seed, device, checkpoint folder, progress.
    of
        Fingerprint of what decides the result.
    """
    device = settings.device

    def epoch(number: int, descend: Descend) -> float:
        order = torch_generator(settings.seed, method, "pretraining batches", number)
        draws = torch_generator(settings.seed, method, "pretraining", number, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in batches(cells.n_cells, batch_size, order):
            x, raw, sizes = batch_of(cells, counts, rows, device)
            z = encode(weights, noisy(x, noise, draws))
            loss = likelihood_loss(weights, z, raw, sizes, ridge)
            descend(loss)
            total += loss.detach() * len(rows)
        return float(total) / cells.n_cells

    phase = f"{method}-pretraining"
    return train(phase, weights, optimizer_of, epoch, epochs, settings, of)


def changed(labels: Tensor, before: Tensor) -> float:
    """Give the share of cells whose label changed."""
    return float((labels != before).float().mean())
