"""The training loop of mask-sc (mask-sc §3.2, §4.1), top to bottom."""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsc.baselines import contrastive_sc, loop
from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.dense import dense
from fedsc.baselines.inputs import Clip
from fedsc.baselines.method import Settings
from fedsc.baselines.patch_targets import Features, features_of
from fedsc.baselines.presets import choose
from fedsc.data.preprocess import CellMatrix
from fedsc.errors import ConfigError
from fedsc.models.encoder import EMBEDDING
from fedsc.models.masked import (
    SIZES,
    Shape,
    draw_masks,
    encode,
    feature_loss,
    init_masked,
    predict,
)
from fedsc.models.mlp import Weights
from fedsc.models.patches import (
    PATCH,
    PATCH_SIDE,
    Layout,
    matrix_layout,
    patches_of,
    sequence_layout,
)
from fedsc.options import Count, NonNegative, Positive
from fedsc.rng import torch_generator


@dataclass(frozen=True)
class Preset:
    """What mask-sc can be told; every field can be overridden.

    Attributes
    ----------
    size
        Encoder and decoder, a key of :data:`~fedsc.models.masked.SIZES`.
    epochs, warmup
        Epochs in all; epochs over which the learning rate rises, before it falls as a cosine.
    batch_size, learning_rate, weight_decay
        Of AdamW with β = (0.9, 0.95); biases, norms and tokens do not decay.
    side
        Rows and columns of the gene matrix, a multiple of 4; ``side**2`` genes are chosen.
    max_value
        Clip of standardised values.
    embedding
        ``"matrix"``: 4 × 4 patches with two coordinates; ``"sequence"``: 16 genes in a row.
    target
        ``"patch"``: the teacher on the patch alone; ``"cell"``: the teacher on the whole cell;
        ``"expression"``: the patch's values, no teacher.
    mask_ratio
        Share of the patches hidden.
    teacher
        Preset of contrastive-sc the teacher is trained with; ``""`` = its first.
    recompute
        Gradient checkpointing: less memory, a third more time.

    Raises
    ------
    ConfigError
        If values do not fit together.
    """

    size: Literal["tiny", "small", "base"]
    epochs: Count
    warmup: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative = 0.05
    side: Annotated[int, Field(ge=8, le=400)] = 64
    max_value: Clip = 10.0
    embedding: Literal["matrix", "sequence"] = "matrix"
    target: Literal["patch", "cell", "expression"] = "patch"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    teacher: str = ""
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.side % PATCH_SIDE:
            raise ConfigError(f"option side = {self.side}: must be a multiple of {PATCH_SIDE}")
        if self.warmup >= self.epochs:
            raise ConfigError(
                f"option warmup = {self.warmup}: must be less than epochs = {self.epochs}"
            )
        choose(contrastive_sc.PRESETS, self.teacher, {})  # which refuses one that is none


def layout_of(preset: Preset, n_genes: int) -> Layout:
    """Lay the chosen genes out as the preset says."""
    if preset.embedding == "sequence":
        return sequence_layout(n_genes)
    return matrix_layout(n_genes, preset.side)


def shape_of(preset: Preset) -> Shape:
    """Give the network's sizes."""
    encoder, decoder = SIZES[preset.size]
    return Shape(encoder, decoder, PATCH if preset.target == "expression" else EMBEDDING)


def learning_rate(preset: Preset, epoch: float) -> float:
    """Give the learning rate at a point in training: linear warm-up, then half a cosine to 0.

    Parameters
    ----------
    preset
        Peak, warm-up and length.
    epoch
        Epochs done, with fraction, ``0 <= epoch <= preset.epochs``.
    """
    if epoch < preset.warmup:
        return preset.learning_rate * epoch / preset.warmup
    done = (epoch - preset.warmup) / (preset.epochs - preset.warmup)
    return preset.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def train(
    cells: CellMatrix, layout: Layout, teacher: Weights, preset: Preset, settings: Settings
) -> loop.Trained:
    """Train, going on from a checkpoint if there is one.

    Every draw comes from (seed, epoch), so a run that goes on ends with the bits of one never
    stopped.

    Parameters
    ----------
    cells
        Standardised expression.
    layout
        Where the genes lie.
    teacher
        Holds the network ``encoder``, which stays as it is; empty for ``target = "expression"``.
    preset
        How to train.
    settings
        Seed, device, checkpoint folder, progress.

    Raises
    ------
    RunError
        If there is a checkpoint of something else.
    """
    seed, device = settings.seed, settings.device
    layout = layout.to(device)
    features = features_of(
        preset.target, {name: weight.to(device) for name, weight in teacher.items()}, layout
    )
    weights = init_masked(shape_of(preset), torch_generator(seed, "mask-sc", "init"))

    def loss_of_epoch(number: int) -> loop.BatchLoss:
        masks = torch_generator(seed, "mask-sc", "masks", number)

        def loss(rows: np.ndarray) -> Tensor:
            x = dense(cells, rows, device)
            visible, hidden = draw_masks(len(x), layout.n_patches, preset.mask_ratio, masks)
            return masked_loss(
                weights, x, features, layout, preset, visible.to(device), hidden.to(device)
            )

        return loss

    phase = loop.Phase(
        "mask-sc",
        ("mask-sc", "batches"),
        cells.n_cells,
        preset.batch_size,
        preset.epochs,
        lambda parameters: _adamw(parameters, preset),
        rate=lambda epoch, share: learning_rate(preset, epoch + share),
    )
    of = fingerprint(cells, preset, seed, _digest(teacher))
    return loop.train(phase, weights, loss_of_epoch, settings, of)


def masked_loss(
    weights: Weights,
    x: Tensor,
    features: Features,
    layout: Layout,
    preset: Preset,
    visible: Tensor,
    hidden: Tensor,
) -> Tensor:
    """Give eq. (6) for one batch and its masks; bfloat16 products on a GPU, float32 elsewhere.

    Parameters
    ----------
    weights
        The network.
    x
        Standardised expression, float32 (cells, genes).
    features
        What is to be predicted of every patch.
    layout
        Where the genes lie, on ``x``'s device.
    preset
        Target and size.
    visible, hidden
        From :func:`~fedsc.models.masked.draw_masks`, on ``x``'s device.

    Returns
    -------
    Tensor
        Scalar with gradient to ``weights`` alone.
    """
    shape, patches = shape_of(preset), patches_of(x, layout)
    target = features(x, patches)
    target = target.gather(1, hidden[:, :, None].expand(-1, -1, target.shape[2]))
    filled = layout.filled[hidden] if preset.target == "expression" else None
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.device.type == "cuda"):
        recompute = preset.recompute
        encoded = encode(weights, patches, layout, shape, visible, recompute=recompute)
        predicted = predict(weights, encoded, layout, shape, visible, hidden, recompute=recompute)
    return feature_loss(predicted, target, filled)


def _adamw(parameters: list[Tensor], preset: Preset) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=preset.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=preset.weight_decay,
        fused=True,
    )


def _digest(weights: Weights) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()
