"""Tell an encoder from what only looks like one; free of torch, so that a server can ask too."""

import re
from collections.abc import Mapping

import numpy as np

from fedsc.models.names import is_buffer

MOST_LAYERS = 100

_NAME = re.compile(r"encoder\.(0|[1-9]\d{0,3})\.(weight|bias|norm\.\w+)")
_NORM = {"norm.weight", "norm.bias"}
_STATISTICS = {"norm.running_mean", "norm.running_var"}


def encoder_problem(weights: Mapping[str, np.ndarray], n_genes: int) -> str | None:
    """Say why tensors are not an encoder of ``n_genes`` genes; ``None`` when they are.

    Parameters
    ----------
    weights
        All tensors of a model. Those of its ``encoder`` have to be layers that fit each other
        (:func:`fedsc.models.mlp.mlp`); of the others, heads of the method, only values are
        looked at.
    n_genes
        Inputs of the first layer.
    """
    for name, array in weights.items():
        if problem := _value_problem(name, array):
            return f"{name} {problem}"
    layers: dict[int, dict[str, np.ndarray]] = {}
    for name, array in weights.items():
        if not name.startswith("encoder."):
            continue
        parts = _NAME.fullmatch(name)
        if parts is None:
            return f"{name} is no part of an encoder"
        layers.setdefault(int(parts[1]), {})[parts[2]] = array
    if not 1 <= len(layers) <= MOST_LAYERS or sorted(layers) != list(range(len(layers))):
        return f"its encoder has the layers {sorted(layers)[:5]}, not 0, 1, 2, …"
    width = n_genes
    for i in range(len(layers)):
        if problem := _layer_problem(layers[i], width, last=i == len(layers) - 1):
            return f"layer {i} of its encoder {problem}"
        width = len(layers[i]["weight"])
    return None


def _value_problem(name: str, array: np.ndarray) -> str | None:
    if array.dtype != np.float32:
        return f"holds {array.dtype}, not float32"
    if not array.size:
        return f"is empty, of shape {array.shape}"
    if not np.isfinite(array).all():
        return "holds values that are not finite"
    if is_buffer(name) and name.endswith("running_var") and not (array > 0).all():
        return "holds variances that are not positive"
    return None


def _layer_problem(layer: Mapping[str, np.ndarray], inputs: int, *, last: bool) -> str | None:
    weight = layer.get("weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] != inputs:
        shape = None if weight is None else weight.shape
        return f"has a weight of shape {shape} where (outputs, {inputs}) is wanted"
    if not weight.any():
        return "has a weight of zeros only: nothing was learnt"
    norm = layer.keys() - {"weight", "bias"}
    if "bias" not in layer or norm not in (set(), _NORM, _NORM | _STATISTICS) or (last and norm):
        return f"has the parts {', '.join(sorted(layer))}"
    for name in layer.keys() - {"weight"}:
        if layer[name].shape != (len(weight),):
            return f"has a {name} of shape {layer[name].shape} where ({len(weight)},) is wanted"
    return None
