"""What mask-sc's decoder is asked to predict for every patch (mask-sc §3.2).

The paper's sequence feature of a patch is read as s_i = f(cell with only patch i left, divided by
the share f's own dropout keeps), f being a frozen contrastive-sc encoder; see
``docs/decisions/`` on mask-sc. f's first layer is linear, so its product with a cell that holds one
patch is the product with 16 columns: all patches of a cell together cost what the cell costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsc.models.encoder import embed
from fedsc.models.mlp import Weights, mlp
from fedsc.models.patches import Layout

Features = Callable[[Tensor, Tensor], Tensor]
"""From cells (n, genes) and their patches (n, patches, 16) to features (n, patches, features)."""

_KEPT = 0.1  # share of the genes contrastive-sc's views keep
_BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class PatchTeacher:
    """A frozen encoder, its first layer cut by patch.

    Attributes
    ----------
    first
        float32 (patches, 16, hidden): columns of the first layer, scale of its batch norm in.
    bias
        float32 (hidden,): bias of the first layer, shift of its batch norm in.
    rest
        The network ``rest``: the layers after the first.
    """

    first: Tensor
    bias: Tensor
    rest: Weights


def features_of(
    target: Literal["patch", "cell", "expression"], encoder: Weights, layout: Layout
) -> Features:
    """Give the function that says what is to be predicted; none of them has a gradient.

    Parameters
    ----------
    target
        ``"patch"``: the encoder on the patch alone; ``"cell"``: the encoder on the whole cell,
        the same for all its patches; ``"expression"``: the patch's own values.
    encoder
        Holds the frozen network ``encoder``; not looked at for ``"expression"``.
    layout
        Where its input genes lie.
    """
    if target == "expression":
        return _expression
    if target == "cell":
        return partial(_cell_features, encoder)
    return partial(_patch_features, patch_teacher(encoder, layout, _KEPT))


def patch_teacher(encoder: Weights, layout: Layout, kept: float) -> PatchTeacher:
    """Prepare an encoder for :func:`patch_features`.

    Parameters
    ----------
    encoder
        Holds the network ``encoder``, batch norm or none after its first layer.
    layout
        Where its input genes lie.
    kept
        Share of the genes its training views kept; what is left of a cell is divided by it.
    """
    encoder = {name: tensor.detach() for name, tensor in encoder.items()}
    matrix, bias = encoder["encoder.0.weight"], encoder["encoder.0.bias"]
    if "encoder.0.norm.weight" in encoder:
        variance = encoder["encoder.0.norm.running_var"] + _BATCH_NORM_EPSILON
        scale = encoder["encoder.0.norm.weight"] / variance.sqrt()
        matrix = matrix * scale[:, None]
        bias = (bias - encoder["encoder.0.norm.running_mean"]) * scale
        bias = bias + encoder["encoder.0.norm.bias"]
    columns = F.pad(matrix / kept, (0, 1))[:, layout.genes]
    return PatchTeacher(columns.permute(1, 2, 0).contiguous(), bias, _after_first(encoder))


def patch_features(teacher: PatchTeacher, patches: Tensor) -> Tensor:
    """Give f of every patch alone, L2-normalised as f's embeddings are.

    Parameters
    ----------
    teacher
        From :func:`patch_teacher`.
    patches
        float32 (cells, patches, 16).

    Returns
    -------
    Tensor
        float32 (cells, patches, 60), without gradient.
    """
    with torch.no_grad():
        first = torch.bmm(patches.transpose(0, 1), teacher.first).transpose(0, 1)
        hidden = torch.relu_(first + teacher.bias)
        features = mlp(teacher.rest, hidden.flatten(0, 1), "rest", training=False)
        return F.normalize(features, dim=1).view(*patches.shape[:2], -1)


def _patch_features(teacher: PatchTeacher, x: Tensor, patches: Tensor) -> Tensor:
    return patch_features(teacher, patches)


def _cell_features(encoder: Weights, x: Tensor, patches: Tensor) -> Tensor:
    return embed(encoder, x)[:, None].expand(-1, patches.shape[1], -1)


def _expression(x: Tensor, patches: Tensor) -> Tensor:
    return patches


def _after_first(encoder: Weights) -> Weights:
    rest = {}
    for name, tensor in encoder.items():
        _, layer, what = name.split(".", 2)
        if int(layer) > 0:
            rest[f"rest.{int(layer) - 1}.{what}"] = tensor
    return rest
