import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsc.models.mlp import init_mlp, mlp
from fedsc.models.names import is_buffer, is_norm

WIDTHS = (7, 9, 4, 3)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _draw(norm):
    """Draw a network none of whose tensors is at its trivial start value, float64."""
    weights = init_mlp("net", WIDTHS, norm, _generator())
    noise = _generator(1)
    return {
        name: tensor.double() + torch.rand(tensor.shape, generator=noise, dtype=torch.float64)
        for name, tensor in weights.items()
    }


def _sequential(weights, norm):
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.load_state_dict(
            {"weight": weights[f"net.{i}.weight"], "bias": weights[f"net.{i}.bias"]}
        )
        layers.append(linear)
        if i == len(WIDTHS) - 2:
            break
        if norm != "none":
            kind = nn.BatchNorm1d if norm == "batch" else nn.LayerNorm
            layer = kind(outputs, dtype=torch.float64)
            names = ["weight", "bias"]
            names += ["running_mean", "running_var"] if norm == "batch" else []
            state = {name: weights[f"net.{i}.norm.{name}"] for name in names}
            layer.load_state_dict(state, strict=False)
            layers.append(layer)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _cells(n, seed=0):
    return torch.randn(n, 7, generator=_generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_training_and_inference_match_torch_modules(norm):
    weights = _draw(norm)
    reference = _sequential(weights, norm).train()
    for parameter in weights.values():
        parameter.requires_grad_(parameter.dim() > 1)
    for seed in range(3):
        x = _cells(12, seed)
        y, expected = mlp(weights, x, "net", training=True), reference(x)
        torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for i, linear in enumerate(m for m in reference if isinstance(m, nn.Linear)):
        torch.testing.assert_close(weights[f"net.{i}.weight"].grad, linear.weight.grad)

    if norm == "batch":  # the running statistics have moved alike, through three batches
        for i, module in enumerate(m for m in reference if isinstance(m, nn.BatchNorm1d)):
            torch.testing.assert_close(weights[f"net.{i}.norm.running_mean"], module.running_mean)
            torch.testing.assert_close(weights[f"net.{i}.norm.running_var"], module.running_var)

    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    x = _cells(5, 9)
    torch.testing.assert_close(mlp(weights, x, "net", training=False), reference.eval()(x))
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


@given(st.integers(2, 7), st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(0))
def test_gradients_of_views_are_those_of_torch(cells, views, inputs, hidden, seed):
    """The backward pass written out, against autograd through PyTorch's own functions."""
    generator = _generator(seed % 2**63)
    weights = {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in init_mlp("net", (inputs, hidden, 2), "batch", generator).items()
    }
    weights["net.0.norm.running_var"].abs_()
    x = torch.randn(cells, views, inputs, generator=generator, dtype=torch.float64)
    upstream = torch.randn(cells, views, 2, generator=generator, dtype=torch.float64)

    def with_gradients(forward):
        own = {name: tensor.clone() for name, tensor in weights.items()}
        trained = [tensor.requires_grad_() for n, tensor in own.items() if not is_buffer(n)]
        leaf = x.clone().requires_grad_()
        result = forward(own, leaf)
        gradients = torch.autograd.grad(result, [leaf, *trained], upstream)
        return [result, *gradients, *(tensor for n, tensor in own.items() if is_buffer(n))]

    def plainly(own, leaf):
        return torch.stack([_one_view(own, view) for view in leaf.unbind(1)], dim=1)

    found = with_gradients(lambda own, leaf: mlp(own, leaf, "net", training=True))
    for ours, theirs in zip(found, with_gradients(plainly), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def _one_view(weights, view):
    hidden = F.linear(view, weights["net.0.weight"], weights["net.0.bias"])
    normed = F.batch_norm(
        hidden,
        weights["net.0.norm.running_mean"],
        weights["net.0.norm.running_var"],
        weights["net.0.norm.weight"],
        weights["net.0.norm.bias"],
        training=True,
    )
    return F.linear(torch.relu(normed), weights["net.1.weight"], weights["net.1.bias"])


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_views_together_give_what_each_gives_alone(norm):
    together, alone = _draw(norm), _draw(norm)
    views = torch.stack([_cells(12, seed) for seed in range(3)], dim=1)
    y = mlp(together, views, "net", training=True)
    for i, view in enumerate(views.unbind(1)):
        torch.testing.assert_close(y[:, i], mlp(alone, view, "net", training=True))
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name])


def test_networks_live_side_by_side_in_one_dict():
    first = _draw("batch")
    second = {"other.0.weight": _cells(2), "other.0.bias": _cells(1)[0, :2]}
    x = _cells(4)

    both = {**second, **first}
    torch.testing.assert_close(
        mlp(both, x, "net", training=False), mlp(first, x, "net", training=False)
    )
    assert mlp(both, x, "other", training=True).shape == (4, 2)


def test_batch_norm_refuses_a_single_cell_in_training():
    weights = _draw("batch")
    with pytest.raises(ValueError, match="two cells or more"):
        mlp(weights, _cells(1), "net", training=True)
    assert mlp(weights, _cells(1), "net", training=False).shape == (1, 3)


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ("none", []),
        ("layer", ["weight", "bias"]),
        ("batch", ["weight", "bias", "running_mean", "running_var"]),
    ],
)
def test_names_and_shapes(norm, names):
    weights = init_mlp("net", WIDTHS, norm, _generator())
    expected = {}
    for i, (inputs, outputs) in enumerate([(7, 9), (9, 4), (4, 3)]):
        expected |= {f"net.{i}.weight": (outputs, inputs), f"net.{i}.bias": (outputs,)}
        if i < 2:  # none after the last layer
            expected |= {f"net.{i}.norm.{name}": (outputs,) for name in names}

    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == expected
    assert {n for n in weights if is_norm(n)} == {n for n in expected if ".norm." in n}
    assert {n for n in weights if is_buffer(n)} == {n for n in expected if "running" in n}


def test_start_values():
    weights = init_mlp("net", (300, 200, 40), "batch", _generator())

    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    for i, (inputs, outputs) in enumerate([(300, 200), (200, 40)]):
        matrix = weights[f"net.{i}.weight"]
        bound = math.sqrt(6 / (inputs + outputs))  # Glorot & Bengio 2010, eq. (16)
        assert 0.99 * bound < matrix.abs().max() <= bound
        # Uniform on ± bound: mean 0, deviation bound/√3; five standard errors of each.
        n = matrix.numel()
        assert abs(matrix.mean()) < 5 * bound / math.sqrt(3 * n)
        assert abs(matrix.var() - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / n)
        assert not weights[f"net.{i}.bias"].any()
    assert torch.equal(weights["net.0.norm.weight"], torch.ones(200))
    assert torch.equal(weights["net.0.norm.running_var"], torch.ones(200))
    assert not weights["net.0.norm.bias"].any()
    assert not weights["net.0.norm.running_mean"].any()


def test_the_generator_decides_alone():
    first = init_mlp("net", WIDTHS, "batch", _generator(4))
    torch.manual_seed(99)
    again = init_mlp("net", WIDTHS, "batch", _generator(4))
    other = init_mlp("net", WIDTHS, "batch", _generator(5))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])
