"""mask-sc without transformer and teacher (mask-sc Appendix A): a masked MLP autoencoder.

The three-layer encoder of both papers sees a cell with most genes dropped; one linear layer
60 → genes gives back the dropped values. What the paper leaves open is taken from mask-sc itself
(the loss counts what was hidden, AdamW, a cell's embedding is the encoder's output on the whole
cell) and from contrastive-sc (a view drops single genes and scales up the others).
"""

import time
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsc.baselines import loop
from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster, require_k
from fedsc.baselines.contrastive_sc import embed_all
from fedsc.baselines.inputs import Clip, prepare
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.encoder import EMBEDDING, HIDDEN
from fedsc.models.mlp import Weights, init_mlp, mlp
from fedsc.options import Count, NonNegative, Positive
from fedsc.rng import torch_generator
from fedsc.ssl.objective import Descend
from fedsc.ssl.views import masked_view
from fedsc.training import batches


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
    """

    n_genes: Count = 500
    max_value: Clip = 10.0
    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75


PRESETS = {"paper": Preset()}


def fit(expression: Expression, settings: Settings) -> Fitted:
    """Train mask-sc-mlp on one file and cluster its cells.

    Parameters
    ----------
    expression
        Cells of one file.
    settings
        ``preset`` is a key of :data:`PRESETS`, ``overrides`` fields of :class:`Preset`.

    Raises
    ------
    ConfigError
        If preset or overrides are none of mask-sc-mlp's.
    DataError
        If there are too few cells.
    RunError
        If the checkpoint is of something else.
    """
    began = time.monotonic()
    preset = choose(PRESETS, settings)
    cells, _ = prepare(expression, preset.n_genes, preset.max_value)
    if settings.k is not None:
        require_k(settings.k, cells.n_cells)
    weights, losses = train(cells, preset, settings)
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


def train(cells: CellMatrix, preset: Preset, settings: Settings) -> tuple[Weights, list[float]]:
    """Train encoder and decoder.

    Parameters
    ----------
    cells
        Standardised expression of at least two cells.
    preset
        How to train.
    settings
        Seed, device, checkpoint folder, progress.

    Returns
    -------
    tuple
        Weights of the networks ``encoder`` and ``decoder``, and the mean loss of every epoch.
    """
    seed, device = settings.seed, settings.device
    init = torch_generator(seed, "mask-sc-mlp", "init")
    weights = {
        **init_mlp("encoder", (cells.n_genes, *HIDDEN, EMBEDDING), "batch", init),
        **init_mlp("decoder", (EMBEDDING, cells.n_genes), "none", init),
    }
    weights = {name: weight.to(device) for name, weight in weights.items()}

    def optimizer_of(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=preset.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=preset.weight_decay,
            fused=True,
        )

    def epoch(number: int, descend: Descend) -> float:
        order = torch_generator(seed, "mask-sc-mlp", "batches", number)
        masks = torch_generator(seed, "mask-sc-mlp", "masks", number, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in batches(cells.n_cells, preset.batch_size, order):
            x = torch.from_numpy(cells.batch(rows)).to(device)
            scale = masked_view(torch.ones_like(x), preset.mask_ratio, masks)
            loss = hidden_loss(weights, x, scale)
            descend(loss)
            total += loss.detach() * len(x)
        return float(total) / cells.n_cells

    of = fingerprint(cells, preset, seed)
    losses = loop.train("mask-sc-mlp", weights, optimizer_of, epoch, preset.epochs, settings, of)
    return weights, losses


def hidden_loss(weights: Weights, x: Tensor, scale: Tensor) -> Tensor:
    """Give the mean squared error over the hidden values, a scalar.

    Parameters
    ----------
    weights
        Networks ``encoder`` and ``decoder``.
    x
        Standardised expression, float32 (cells, genes).
    scale
        As ``x``: 0 where a value is hidden, what it is multiplied by elsewhere.
    """
    code = mlp(weights, x * scale, "encoder", training=True)
    errors = (mlp(weights, code, "decoder", training=True) - x).square()
    hidden = scale == 0
    return errors.mul(hidden).sum() / hidden.sum().clamp(min=1)
