"""mask-sc without transformer and teacher (mask-sc Appendix A): a masked MLP autoencoder.

The three-layer encoder of both papers sees a cell with most genes dropped; one linear layer
60 → genes gives back the dropped values. What the paper leaves open is taken from mask-sc itself
(the loss counts what was hidden, AdamW, a cell's embedding is the encoder's output on the whole
cell) and from contrastive-sc (a view drops single genes and scales up the others).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster, require_k
from fedsc.baselines.contrastive_sc import embed_all
from fedsc.baselines.dense import dense
from fedsc.baselines.inputs import Clip, prepare
from fedsc.baselines.loop import BatchLoss, Phase, Trained, train
from fedsc.baselines.method import Fitted, Settings
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.encoder import EMBEDDING, HIDDEN
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import Count, NonNegative, Positive
from fedsc.rng import random_bits, torch_generator
from fedsc.ssl.views import masked_views

Error = Literal["hidden", "all"]


@dataclass(frozen=True)
class Preset:
    """What mask-sc-mlp can be told; every field can be overridden.

    Attributes
    ----------
    n_genes, max_value
        Highly variable genes; clip of standardised values.
    epochs, batch_size, learning_rate, weight_decay
        Of AdamW.
    mask_ratio
        Probability that a gene is hidden.
    error
        Whether the loss counts the hidden values or all of them.
    """

    n_genes: Count = 500
    max_value: Clip = 10.0
    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    error: Error = "hidden"


PRESETS = {"paper": Preset()}


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Train mask-sc-mlp on one file and cluster its cells.

    Raises
    ------
    ConfigError
        If k is impossible.
    DataError
        If there are too few cells.
    RunError
        If the checkpoint is of something else.
    """
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    if k is not None:
        require_k(k, cells.n_cells)
    trained = train_autoencoder(cells, preset, settings)
    embedding = embed_all(trained.weights, cells, settings.device)
    clusters, choice = cluster(embedding, k, settings)
    record = {"genes": cells.n_genes, "losses": trained.losses, "clusters": choice}
    return Fitted(embedding, clusters, record)


def train_autoencoder(cells: CellMatrix, preset: Preset, settings: Settings) -> Trained:
    """Train the networks ``encoder`` and ``decoder`` on at least two cells."""
    seed, device = settings.seed, settings.device
    init = torch_generator(seed, "mask-sc-mlp", "init")
    weights = {
        **init_mlp("encoder", (cells.n_genes, *HIDDEN, EMBEDDING), "batch", init),
        **init_mlp("decoder", (EMBEDDING, cells.n_genes), "none", init),
    }

    def optimizer_of(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=preset.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=preset.weight_decay,
            fused=True,
        )

    def loss_of_epoch(number: int) -> BatchLoss:
        masks = random_bits(seed, "mask-sc-mlp", "masks", number)

        def loss(rows: np.ndarray) -> Tensor:
            x = dense(cells, rows, device)
            scale = masked_views(torch.ones_like(x), preset.mask_ratio, masks, n=1)[:, 0]
            return squared_error(weights, x, scale, preset.error)

        return loss

    phase = Phase(
        "mask-sc-mlp",
        ("mask-sc-mlp", "batches"),
        cells.n_cells,
        preset.batch_size,
        preset.epochs,
        optimizer_of,
    )
    return train(phase, weights, loss_of_epoch, settings, fingerprint(cells, preset, seed))


def squared_error(weights: Weights, x: Tensor, scale: Tensor, over: Error) -> Tensor:
    """Give the mean squared error over the hidden values or over all, a scalar.

    Parameters
    ----------
    weights
        Networks ``encoder`` and ``decoder``.
    x
        Standardised expression, float32 (cells, genes).
    scale
        As ``x``: 0 where a value is hidden, what it is multiplied by elsewhere.
    over
        Which values count.
    """
    code = mlp(weights, x * scale, "encoder", training=True)
    errors = (mlp(weights, code, "decoder", training=True) - x).square()
    if over == "all":
        return errors.mean()
    hidden = scale == 0
    return errors.mul(hidden).sum() / hidden.sum().clamp(min=1)
