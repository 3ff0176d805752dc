"""The training loop of mask-sc (mask-sc §3.2, §4.1), top to bottom."""

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsc.baselines import mask_checkpoint
from fedsc.baselines.mask_checkpoint import Training
from fedsc.baselines.method import Settings
from fedsc.baselines.patch_targets import Features, features_of
from fedsc.config import Count, NonNegative, Positive
from fedsc.data.preprocess import CellMatrix
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
from fedsc.models.patches import PATCH, Layout, matrix_layout, patches_of, sequence_layout
from fedsc.rng import torch_generator
from fedsc.training import batches

_SAVE_SECONDS = 30.0  # between two checkpoints, and what an interrupted run may lose


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
    """

    size: Literal["tiny", "small", "base"]
    epochs: Count
    warmup: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative = 0.05
    side: Annotated[int, Field(ge=8, le=400)] = 64
    embedding: Literal["matrix", "sequence"] = "matrix"
    target: Literal["patch", "cell", "expression"] = "patch"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    teacher: str = ""
    recompute: bool = False


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


def fingerprint(cells: CellMatrix, preset: Preset, seed: int) -> str:
    """Hash what decides the weights: a checkpoint of anything else must not be gone on with."""
    text = json.dumps([asdict(preset), seed, cells.values.shape, cells.max_value])
    digest = hashlib.sha256(text.encode())
    for array in (cells.values.data, cells.values.indices, cells.mean, cells.std):
        digest.update(array.tobytes())
    return digest.hexdigest()


def start(preset: Preset, teacher: Weights, settings: Settings) -> Training:
    """Draw the state before the first epoch."""
    weights = init_masked(shape_of(preset), torch_generator(settings.seed, "mask-sc", "init"))
    weights = {name: weight.to(settings.device) for name, weight in weights.items()}
    frozen = {name: weight.detach().to(settings.device) for name, weight in teacher.items()}
    return Training(weights, frozen)


def train(
    training: Training, cells: CellMatrix, layout: Layout, preset: Preset, settings: Settings
) -> None:
    """Train until ``preset.epochs`` epochs are done; moves ``training`` along.

    Every draw comes from (seed, epoch), so a run that goes on from a checkpoint ends with the bits
    of one never stopped. When it is interrupted, the last checkpoint is at most
    ``_SAVE_SECONDS`` and one epoch old.

    Parameters
    ----------
    training
        From :func:`start` or a checkpoint.
    cells
        Standardised expression.
    layout
        Where the genes lie.
    preset
        How to train.
    settings
        Seed, device, checkpoint folder, progress.
    """
    device = settings.device
    layout = layout.to(device)
    weights = training.weights
    optimizer = _optimizer(weights, preset)
    mask_checkpoint.give_moments(optimizer, weights, training.moments)
    features = features_of(preset.target, training.teacher, layout)
    print_of_run = fingerprint(cells, preset, settings.seed)
    saved = time.monotonic()
    for epoch in range(len(training.losses), preset.epochs):
        order = torch_generator(settings.seed, "mask-sc", "batches", epoch)
        masks = torch_generator(settings.seed, "mask-sc", "masks", epoch)
        rows = list(batches(cells.n_cells, preset.batch_size, order))
        total = torch.zeros((), dtype=torch.float64, device=device)
        for i, batch in enumerate(rows):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(preset, epoch + (i + 1) / len(rows))
            x = torch.from_numpy(cells.batch(batch)).to(device)
            visible, hidden = draw_masks(len(x), layout.n_patches, preset.mask_ratio, masks)
            visible, hidden = visible.to(device), hidden.to(device)
            loss = masked_loss(weights, x, features, layout, preset, visible, hidden)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(x)
        training.losses.append(float(total) / cells.n_cells)
        training.moments = mask_checkpoint.moments_of(optimizer, weights)
        last = epoch + 1 == preset.epochs
        if settings.checkpoint and (last or time.monotonic() - saved >= _SAVE_SECONDS):
            mask_checkpoint.save(settings.checkpoint, training, print_of_run)
            saved = time.monotonic()
        settings.progress("mask-sc", epoch + 1, preset.epochs, {"loss": training.losses[-1]})


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


def _optimizer(weights: Weights, preset: Preset) -> torch.optim.AdamW:
    for weight in weights.values():
        weight.requires_grad_(True)
    matrices = [weight for weight in weights.values() if weight.dim() > 1]
    others = [weight for weight in weights.values() if weight.dim() == 1]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=preset.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=preset.weight_decay,
        fused=True,
    )
