"""The masked encoder and decoder of mask-sc (mask-sc §3.2): predict features of hidden patches.

The encoder sees the visible patches alone, so with 75 % hidden a step through it costs what a
quarter of the tokens cost, and no hidden value can reach it. A stride-4 convolution with a 4 × 4
kernel is one linear map of every patch; taking the patches first spares the hidden ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsc.models.mlp import Weights
from fedsc.models.patches import PATCH, Layout, sine_cosine
from fedsc.models.transformer import (
    Stack,
    block_flops,
    blocks,
    init_blocks,
    init_linear,
    last_attention,
    linear,
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the two stacks and of what the decoder predicts for a patch."""

    encoder: Stack
    decoder: Stack
    outputs: int


SIZES = {
    "tiny": (Stack(3, 4, 64), Stack(1, 2, 32)),
    "small": (Stack(6, 6, 192), Stack(2, 4, 128)),
    "base": (Stack(12, 12, 768), Stack(8, 16, 512)),
}
"""Encoder and decoder by name; ``base`` is the paper's (mask-sc §4.1)."""


def init_masked(shape: Shape, generator: torch.Generator) -> Weights:
    """Draw the network: Xavier-uniform matrices, zero biases, tokens from N(0, 0.02²)."""
    encoder, decoder = shape.encoder, shape.decoder
    return {
        **init_linear("patch", PATCH, encoder.width, generator),
        "class_token": torch.randn(encoder.width, generator=generator) * 0.02,
        **init_blocks("encoder", encoder, generator),
        **init_linear("decoder.enter", encoder.width, decoder.width, generator),
        "decoder.mask_token": torch.randn(decoder.width, generator=generator) * 0.02,
        **init_blocks("decoder", decoder, generator),
        **init_linear("decoder.leave", decoder.width, shape.outputs, generator),
    }


def n_visible(n_patches: int, ratio: float) -> int:
    """Count the patches a mask leaves: at least one, and at least one is hidden."""
    return min(max(round(n_patches * (1.0 - ratio)), 1), n_patches - 1)


def draw_masks(
    n_cells: int, n_patches: int, ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose, for every cell on its own, which patches stay visible.

    Parameters
    ----------
    n_cells
        Cells of the batch.
    n_patches
        Patches of a cell, at least 2.
    ratio
        Share to hide, ``0 < ratio < 1``.
    generator
        On the CPU, so that a GPU hides the same patches.

    Returns
    -------
    tuple of Tensor
        int64 visible (cells, V) and hidden (cells, patches − V).
    """
    order = torch.rand(n_cells, n_patches, generator=generator).argsort(dim=1)
    visible = n_visible(n_patches, ratio)
    return order[:, :visible], order[:, visible:]


def encode(
    weights: Weights,
    patches: Tensor,
    layout: Layout,
    shape: Shape,
    visible: Tensor | None = None,
    *,
    recompute: bool = False,
) -> Tensor:
    """Encode the class token and the visible patches.

    Parameters
    ----------
    weights
        From :func:`init_masked`.
    patches
        float32 (cells, patches, 16).
    layout
        Where they lie.
    shape
        Of the network.
    visible
        int64 (cells, V); ``None`` = all, in the layout's order.
    recompute
        See :func:`~fedsc.models.transformer.blocks`.

    Returns
    -------
    Tensor
        float (cells, 1 + V, width), class token first.
    """
    tokens = _tokens(weights, patches, layout, shape, visible)
    return blocks(weights, tokens, "encoder", shape.encoder, recompute=recompute)


def predict(
    weights: Weights,
    encoded: Tensor,
    layout: Layout,
    shape: Shape,
    visible: Tensor,
    hidden: Tensor,
    *,
    recompute: bool = False,
) -> Tensor:
    """Predict the features of the hidden patches from the encoded visible ones.

    A block treats its tokens as a set that only their positions tell apart, so the hidden patches
    are simply put last instead of back where they were.

    Parameters
    ----------
    weights, layout, shape, recompute
        As for :func:`encode`.
    encoded
        What :func:`encode` gave.
    visible, hidden
        From :func:`draw_masks`.

    Returns
    -------
    Tensor
        float (cells, hidden, outputs).
    """
    positions = sine_cosine(layout.places, shape.decoder.width)
    tokens = linear(weights, encoded, "decoder.enter")
    masked = weights["decoder.mask_token"] + positions[hidden]
    known = tokens[:, 1:] + positions[visible]
    tokens = torch.cat([tokens[:, :1], known, masked.to(known.dtype)], dim=1)
    tokens = blocks(weights, tokens, "decoder", shape.decoder, recompute=recompute)
    return linear(weights, tokens[:, -hidden.shape[1] :], "decoder.leave")


def feature_loss(predicted: Tensor, target: Tensor, filled: Tensor | None = None) -> Tensor:
    """mask-sc eq. (6): squared L2 distance over features, mean over the hidden patches.

    Parameters
    ----------
    predicted, target
        float (cells, hidden, features).
    filled
        Bool, as ``target``: leave features out where False (padding); ``None`` = all count.

    Returns
    -------
    Tensor
        float32 scalar.
    """
    squares = (predicted.float() - target).square()
    if filled is not None:
        squares = squares * filled
    return squares.sum(dim=2).mean()


def embed(weights: Weights, patches: Tensor, layout: Layout, shape: Shape) -> Tensor:
    """Embed whole cells: mean of the encoder's patch tokens, float (cells, width)."""
    with torch.no_grad():
        return encode(weights, patches, layout, shape)[:, 1:].mean(dim=1)


def attention(weights: Weights, patches: Tensor, layout: Layout, shape: Shape) -> Tensor:
    """Give the encoder's last attention on whole cells, averaged over heads (mask-sc Fig. 5).

    Returns
    -------
    Tensor
        float (cells, 1 + patches, 1 + patches), class token first; rows sum to 1.
    """
    with torch.no_grad():
        tokens = _tokens(weights, patches, layout, shape, None)
        return last_attention(weights, tokens, "encoder", shape.encoder)


def step_flops(shape: Shape, n_patches: int, ratio: float) -> int:
    """Count the matrix products of one training step, for one cell; two per multiply-add.

    The backward pass costs the forward pass twice, once for the inputs and once for the weights;
    the patches themselves need no gradient. Recomputation adds the stacks' forward pass again.
    """
    visible = n_visible(n_patches, ratio)
    encoder, decoder = shape.encoder, shape.decoder
    patches = 2 * visible * PATCH * encoder.width
    enter = 2 * (1 + visible) * encoder.width * decoder.width
    leave = 2 * (n_patches - visible) * decoder.width * shape.outputs
    stacks = block_flops(encoder, 1 + visible) + block_flops(decoder, 1 + n_patches)
    return 2 * patches + 3 * (stacks + enter + leave)


def _tokens(
    weights: Weights, patches: Tensor, layout: Layout, shape: Shape, visible: Tensor | None
) -> Tensor:
    positions = sine_cosine(layout.places, shape.encoder.width)
    if visible is not None:
        patches = patches.gather(1, visible[:, :, None].expand(-1, -1, PATCH))
        positions = positions[visible]
    tokens = linear(weights, patches, "patch") + positions
    first = weights["class_token"].to(tokens.dtype).expand(len(tokens), 1, -1)
    return torch.cat([first, tokens], dim=1)
