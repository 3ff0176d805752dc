"""The denoising ZINB autoencoder under scDeepCluster (Tian et al. 2019) and scziDesk (2020).

Encoder genes → 256 → 64 → 32 and decoder back, ReLU between layers, no normalisation; three linear
heads on the decoder's last layer give mean, dispersion and dropout of every gene.
"""

import torch
from torch import Tensor

from fedsc.baselines.dense import all_dense
from fedsc.baselines.zinb import mean_and_dispersion, zinb_nll
from fedsc.data.preprocess import CellMatrix
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.rng import torch_generator
from fedsc.threads import one_thread

HIDDEN = (256, 64)
LATENT = 32
_HEADS = ("mean", "dispersion", "dropout")


def init(n_genes: int, seed: int) -> Weights:
    """Draw the autoencoder's weights."""
    generator = torch_generator(seed, "zinb-autoencoder", "init")
    weights = {
        **init_mlp("encoder", (n_genes, *HIDDEN, LATENT), "none", generator),
        **init_mlp("decoder", (LATENT, *HIDDEN[::-1]), "none", generator),
    }
    for head in _HEADS:
        weights |= init_mlp(head, (HIDDEN[0], n_genes), "none", generator)
    return weights


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


@one_thread()
@torch.no_grad()
def encode_all(weights: Weights, cells: CellMatrix, device: str) -> Tensor:
    """Encode every cell without noise, float32 (cells, 32), on ``device``."""
    return torch.cat([encode(weights, x) for x in all_dense(cells, device)])
