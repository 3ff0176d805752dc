"""The transformer of mask-sc (mask-sc §3), as pure functions over a dict of tensors.

Pre-norm blocks as in the vision transformer: attention, then a GELU network four times as wide,
each added to its input. As in ``mlp.py`` a network is its weights: block ``i`` of the stack
``prefix`` is ``{prefix}.{i}.*``, the closing normalisation ``{prefix}.end.*``.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fedsc.models.mlp import Weights

MLP_RATIO = 4
_EPSILON = 1e-6


@dataclass(frozen=True)
class Stack:
    """Shape of a stack of blocks; ``width`` is a multiple of ``heads`` and of 4."""

    depth: int
    heads: int
    width: int


def init_linear(name: str, inputs: int, outputs: int, generator: torch.Generator) -> Weights:
    """Draw one linear layer: Xavier-uniform matrix (outputs, inputs), zero bias."""
    matrix = torch.empty(outputs, inputs)
    torch.nn.init.xavier_uniform_(matrix, generator=generator)
    return {f"{name}.weight": matrix, f"{name}.bias": torch.zeros(outputs)}


def init_blocks(prefix: str, stack: Stack, generator: torch.Generator) -> Weights:
    """Draw a stack of blocks and its closing normalisation, float32."""
    width = stack.width
    weights: Weights = {}
    for i in range(stack.depth):
        block = f"{prefix}.{i}"
        weights |= _init_norm(f"{block}.before_attention", width)
        weights |= init_linear(f"{block}.qkv", width, 3 * width, generator)
        weights |= init_linear(f"{block}.mix", width, width, generator)
        weights |= _init_norm(f"{block}.before_mlp", width)
        weights |= init_linear(f"{block}.up", width, MLP_RATIO * width, generator)
        weights |= init_linear(f"{block}.down", MLP_RATIO * width, width, generator)
    return weights | _init_norm(f"{prefix}.end", width)


def linear(weights: Weights, x: Tensor, name: str) -> Tensor:
    """Apply the linear layer ``name`` to the last axis."""
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def blocks(
    weights: Weights, x: Tensor, prefix: str, stack: Stack, *, recompute: bool = False
) -> Tensor:
    """Apply the stack ``prefix`` and its closing normalisation.

    Parameters
    ----------
    weights
        Holds at least this stack's tensors.
    x
        Tokens, float (cells, tokens, width).
    prefix
        Name of the stack.
    stack
        Its shape.
    recompute
        Keep only the input of every block for the backward pass and run the block again there
        (gradient checkpointing): memory of one block instead of ``depth``, a third more time.

    Returns
    -------
    Tensor
        As ``x``.
    """
    for i in range(stack.depth):
        if recompute:
            x = checkpoint(
                _block,
                weights,
                x,
                f"{prefix}.{i}",
                stack.heads,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing in a block is random
            )
        else:
            x = _block(weights, x, f"{prefix}.{i}", stack.heads)
    return _norm(weights, x, f"{prefix}.end")


def last_attention(weights: Weights, x: Tensor, prefix: str, stack: Stack) -> Tensor:
    """Give the attention of the stack's last block, averaged over heads (mask-sc Fig. 5).

    ``scaled_dot_product_attention`` keeps its weights to itself, so they are computed again here,
    explicitly.

    Parameters
    ----------
    weights, x, prefix, stack
        As for :func:`blocks`.

    Returns
    -------
    Tensor
        float (cells, tokens, tokens); row = asking token, rows sum to 1.
    """
    last = stack.depth - 1
    for i in range(last):
        x = _block(weights, x, f"{prefix}.{i}", stack.heads)
    x = _norm(weights, x, f"{prefix}.{last}.before_attention")
    query, key, _ = _heads(weights, x, f"{prefix}.{last}", stack.heads)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    return scores.softmax(dim=3).mean(dim=1)


def block_flops(stack: Stack, tokens: int) -> int:
    """Count the matrix products of one forward pass through the stack, for one cell.

    Two operations per multiply-add: per token 3·D² for query, key and value, D² to mix the heads
    and 8·D² in the network; per pair of tokens D for the scores and D for the weighted values.
    """
    width = stack.width
    per_token = (4 + 2 * MLP_RATIO) * width**2 + 2 * tokens * width
    return 2 * stack.depth * tokens * per_token


def _block(weights: Weights, x: Tensor, block: str, heads: int) -> Tensor:
    y = _norm(weights, x, f"{block}.before_attention")
    y = F.scaled_dot_product_attention(*_heads(weights, y, block, heads))
    x = x + linear(weights, y.transpose(1, 2).flatten(2), f"{block}.mix")
    y = _norm(weights, x, f"{block}.before_mlp")
    return x + linear(weights, F.gelu(linear(weights, y, f"{block}.up")), f"{block}.down")


def _heads(weights: Weights, x: Tensor, block: str, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give query, key and value, (cells, heads, tokens, width / heads) each."""
    qkv = linear(weights, x, f"{block}.qkv").reshape(*x.shape[:2], 3, heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _init_norm(name: str, width: int) -> Weights:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _norm(weights: Weights, x: Tensor, name: str) -> Tensor:
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.layer_norm(x, scale.shape, scale, shift, _EPSILON)
