"""The one multi-layer perceptron of the project, as pure functions over a dict of tensors.

A network is its weights: layer ``i`` of the network ``prefix`` is ``{prefix}.{i}.weight`` and
``.bias``, its normalisation ``{prefix}.{i}.norm.*``. The keys alone tell depth and normalisation,
so a saved model needs no class to be used again, and the same dict travels, averages and mirrors.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def mlp(
    weights: Weights, x: Tensor, *prefixes: str, training: bool, share: Tensor | None = None
) -> Tensor:
    """Apply networks one after the other: linear, norm, ReLU; the last layer is linear alone.

    Parameters
    ----------
    weights
        Holds at least these networks' tensors.
    x
        Input, float32 (cells, inputs), or in training several views of every cell, (cells, views,
        inputs).
    *prefixes
        Names of the networks.
    training
        Normalise by the batch, each view by its own, and move the running statistics (in place,
        view by view), instead of normalising by the running statistics.
    share
        Where labs train stacked: weights and ``x`` have a leading dimension of labs, and this is
        each row's share in the mean over its lab's cells, float32 (labs, cells): 1/n, or 0 for
        a row that only fills up and has no say in batch norm.

    Returns
    -------
    Tensor
        float32 (cells, outputs) or (cells, views, outputs); stacked, with labs before.

    Raises
    ------
    ValueError
        If one cell alone is to be normalised by its batch.
    """
    layers = [layer for prefix in prefixes for layer in _layers(weights, prefix)]
    if share is not None:
        return _stacked(layers, x, share)
    if training and any(layer.mean is not None for layer in layers):
        if len(x) < 2:
            raise ValueError("batch norm needs two cells or more: one alone has no variance")
        parameters = [tensor for layer in layers for tensor in layer.parameters]
        y: Tensor = _BatchNormalised.apply(x, layers, *parameters)  # type: ignore[no-untyped-call]
        return y
    for layer in layers:
        matrix, bias, scale, shift = layer.parameters
        x = F.linear(x, matrix, bias)
        if layer.mean is not None:
            x = F.batch_norm(x, layer.mean, layer.var, scale, shift, eps=_EPS)
        elif scale is not None:
            x = F.layer_norm(x, x.shape[-1:], scale, shift, _EPS)
        if layer.hidden:
            x = torch.relu(x)
    return x


class _Layer(NamedTuple):
    """One layer: matrix, bias and, of its norm, scale and shift; running mean and variance."""

    parameters: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    mean: Tensor | None
    var: Tensor | None
    hidden: bool


def _layers(weights: Weights, prefix: str) -> Iterator[_Layer]:
    i = 0
    while (layer := f"{prefix}.{i}") + ".weight" in weights:
        i += 1
        hidden = f"{prefix}.{i}.weight" in weights
        # The last layer has no norm, whatever tensors lie beside it.
        of = weights if hidden else {}
        yield _Layer(
            (
                weights[f"{layer}.weight"],
                weights[f"{layer}.bias"],
                of.get(f"{layer}.norm.weight"),
                of.get(f"{layer}.norm.bias"),
            ),
            of.get(f"{layer}.norm.running_mean"),
            of.get(f"{layer}.norm.running_var"),
            hidden,
        )


_EPS = 1e-5  # PyTorch's own defaults
_MOMENTUM = 0.1


class _BatchNormalised(torch.autograd.Function):
    """Layers with batch norm while they are trained, with their gradients written out.

    It computes what PyTorch's own functions compute, with less work: all views go through one
    product and one normalisation, in which every view has columns of its own. A bias before a
    batch norm moves nothing but the running mean, as the norm takes it away again: its gradient
    is 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: list[_Layer], *parameters: Tensor) -> Tensor:
        cells, views = len(x), x.shape[1] if x.dim() == 3 else 1
        rows, kept = x.reshape(cells * views, -1), []
        for layer in layers:
            matrix, bias, scale, shift = layer.parameters
            inputs, norm = rows, None
            if layer.mean is None or layer.var is None or scale is None or shift is None:
                rows = torch.addmm(bias, rows, matrix.t())
            else:
                wide = torch.mm(rows, matrix.t()).view(cells, -1)
                scales = torch.cat([scale] * views)
                # With momentum 1 these become the batch's own mean and unbiased variance.
                mean, var = wide.new_zeros(2, len(scales))
                normed, *saved = torch.native_batch_norm(
                    wide, scales, torch.cat([shift] * views), mean, var, True, 1.0, _EPS
                )
                means, vars_ = mean.view(views, -1) + bias, var.view(views, -1)
                for own in zip(means.unbind(), vars_.unbind(), strict=True):
                    torch._foreach_lerp_((layer.mean, layer.var), own, _MOMENTUM)
                rows, norm = normed.view(len(rows), -1), (wide, scales, *saved)
            if layer.hidden:
                rows = rows.relu_()
            kept.append((inputs, matrix, norm, rows if layer.hidden else None))
        ctx.kept, ctx.shape = kept, x.shape
        return rows.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        g = gradient.reshape(ctx.kept[-1][0].shape[0], -1)
        found: list[Tensor | None] = []
        for i, (inputs, matrix, norm, output) in reversed(list(enumerate(ctx.kept))):
            if output is not None:
                g = torch.ops.aten.threshold_backward(g, output, 0)
            of_scale = of_shift = None
            if norm is not None:
                wide, scales, mean, inverse_std = norm
                g, *wider = torch.ops.aten.native_batch_norm_backward(
                    g.view_as(wide), wide, scales, None, None, mean, inverse_std,
                    True, _EPS, (True, True, True),
                )  # fmt: skip
                g = g.view(len(inputs), -1)
                of_scale, of_shift = (w.view(-1, len(matrix)).sum(0) for w in wider)
            of_bias = g.sum(0) if norm is None else matrix.new_zeros(len(matrix))
            found[:0] = torch.mm(g.t(), inputs), of_bias, of_scale, of_shift
            if i or ctx.needs_input_grad[0]:
                g = torch.mm(g, matrix)
        of_x = g.view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, *found


def _stacked(layers: list[_Layer], x: Tensor, share: Tensor) -> Tensor:
    """Apply layers whose tensors have a leading dimension of labs, in training."""
    labs, cells = share.shape
    y = x.reshape(labs, -1, x.shape[-1])
    for layer in layers:
        matrix, bias, scale, shift = layer.parameters
        y = torch.baddbmm(bias[:, None], y, matrix.mT)
        if scale is not None and shift is not None:
            if layer.mean is None or layer.var is None:
                y = F.layer_norm(y, y.shape[-1:], eps=_EPS)
            else:
                wide = y.view(labs, cells, -1)  # views have columns of their own
                y = _normalised(wide, share, layer.mean, layer.var).view_as(y)
            y = torch.addcmul(shift[:, None], y, scale[:, None])
        if layer.hidden:
            y = y.relu_()
    return y.view(*x.shape[:-1], -1)


def _normalised(wide: Tensor, share: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """Normalise (labs, cells, views × width) by each lab's cells; move its running statistics."""
    of_rows = share[:, None]
    mean = torch.bmm(of_rows, wide)
    centred = wide - mean
    var = torch.bmm(of_rows, centred.square())
    with torch.no_grad():
        unbiased = var / (1.0 - share.square().sum(1)[:, None, None])  # n / (n − 1)
        size = running_mean.shape
        for own_mean, own_var in zip(
            mean.view(size[0], -1, size[1]).unbind(1),
            unbiased.view(size[0], -1, size[1]).unbind(1),
            strict=True,
        ):
            running_mean.lerp_(own_mean, _MOMENTUM)
            running_var.lerp_(own_var, _MOMENTUM)
    return centred * torch.rsqrt(var + _EPS)
