"""The one multi-layer perceptron of the project, as pure functions over a dict of tensors.

A network is its weights: layer ``i`` of the network ``prefix`` is ``{prefix}.{i}.weight`` and
``.bias``, its normalisation ``{prefix}.{i}.norm.*``. The keys alone tell depth and normalisation,
so a saved model needs no class to be used again, and the same dict travels, averages and mirrors.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Norm = Literal["batch", "layer", "none"]


def init_mlp(
    prefix: str, widths: tuple[int, ...], norm: Norm, generator: torch.Generator
) -> Weights:
    """Draw the weights of a network: Xavier-uniform matrices, zero biases.

    Parameters
    ----------
    prefix
        Name of the network, e.g. ``"encoder"``.
    widths
        Inputs, hidden layers, outputs; at least two numbers.
    norm
        Normalisation before the ReLU of every layer but the last.
    generator
        Source of the draws.

    Returns
    -------
    Weights
        float32 tensors; matrices are (outputs, inputs).
    """
    weights: Weights = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        matrix = torch.empty(outputs, inputs)
        torch.nn.init.xavier_uniform_(matrix, generator=generator)
        weights[f"{prefix}.{i}.weight"] = matrix
        weights[f"{prefix}.{i}.bias"] = torch.zeros(outputs)
        if norm != "none" and i < len(widths) - 2:
            weights[f"{prefix}.{i}.norm.weight"] = torch.ones(outputs)
            weights[f"{prefix}.{i}.norm.bias"] = torch.zeros(outputs)
            if norm == "batch":
                weights[f"{prefix}.{i}.norm.running_mean"] = torch.zeros(outputs)
                weights[f"{prefix}.{i}.norm.running_var"] = torch.ones(outputs)
    return weights


def mlp(weights: Weights, x: Tensor, prefix: str, *, training: bool) -> Tensor:
    """Apply the network ``prefix``: linear, norm, ReLU; the last layer is linear alone.

    Parameters
    ----------
    weights
        Holds at least this network's tensors.
    x
        Input, float32 (cells, inputs).
    prefix
        Name of the network.
    training
        Normalise by the batch and move the running statistics (in place), instead of
        normalising by the running statistics.

    Returns
    -------
    Tensor
        float32 (cells, outputs).
    """
    i = 0
    while f"{prefix}.{i}.weight" in weights:
        layer = f"{prefix}.{i}"
        if i > 0:
            x = torch.relu(_normalise(weights, f"{prefix}.{i - 1}.norm", x, training))
        x = F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        i += 1
    return x


def _normalise(weights: Weights, norm: str, x: Tensor, training: bool) -> Tensor:
    scale = weights.get(f"{norm}.weight")
    if scale is None:
        return x
    shift = weights[f"{norm}.bias"]
    mean = weights.get(f"{norm}.running_mean")
    if mean is None:
        return F.layer_norm(x, x.shape[1:], scale, shift)
    return F.batch_norm(x, mean, weights[f"{norm}.running_var"], scale, shift, training=training)
