import json

import numpy as np
import pytest
import torch

from fedsc.baselines.mask_sc_mlp import PRESETS, fit, squared_error
from fedsc.baselines.method import Settings
from fedsc.baselines.presets import choose
from fedsc.errors import ConfigError
from fedsc.models.mlp import init_mlp, mlp

QUICK = {"epochs": 20, "n_genes": 120, "batch_size": 32}


def quick(expression, *, k=2, seed=0, **overrides):
    return fit(expression, choose(PRESETS, "", QUICK | overrides), k, Settings(seed=seed))


def test_result_and_its_record(cells):
    expression = cells(n_genes=150, n_types=2)
    found = quick(expression)
    assert found.embedding.shape == (50, 60)
    same = found.clusters == expression.labels.astype(int)
    assert same.all() or not same.any()
    record = json.loads(json.dumps(found.record))
    assert record["genes"] == 120
    assert record["losses"][-1] < record["losses"][0]
    assert quick(expression, k=None).record["clusters"]["by"] == "leiden"


def test_loss_is_the_mean_square_over_hidden_values_or_over_all():
    generator = torch.Generator().manual_seed(0)
    weights = init_mlp("encoder", (7, 6, 5), "none", generator) | init_mlp(
        "decoder", (5, 7), "none", generator
    )
    x, scale = torch.randn(4, 7), (torch.rand(4, 7) > 0.7) * 4.0
    restored = mlp(weights, mlp(weights, x * scale, "encoder", training=True), "decoder",
                   training=True)  # fmt: skip
    squares = {(i, j): float(restored[i, j] - x[i, j]) ** 2 for i in range(4) for j in range(7)}
    errors = [square for place, square in squares.items() if scale[place] == 0]
    found = {over: float(squared_error(weights, x, scale, over)) for over in ("hidden", "all")}
    assert found["hidden"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["all"] == pytest.approx(np.mean(list(squares.values())), rel=1e-5)
    assert float(squared_error(weights, x, torch.ones(4, 7), "hidden")) == 0.0


def test_hidden_values_cannot_reach_the_encoder():
    weights = init_mlp("encoder", (7, 6, 5), "batch", torch.Generator().manual_seed(0))
    x = torch.randn(4, 7, requires_grad=True)
    scale = (torch.arange(7) < 3).float().expand(4, -1)
    mlp(weights, x * scale, "encoder", training=True).square().sum().backward()
    assert (x.grad[:, 3:] == 0).all()
    assert (x.grad[:, :3] != 0).any()


def test_the_error_that_counts_is_the_one_asked_for(cells):
    hidden, everything = (quick(cells(), epochs=1, error=over) for over in ("hidden", "all"))
    assert hidden.record["losses"] != everything.record["losses"]


def test_a_mask_that_hides_nothing_is_refused(cells):
    with pytest.raises(ConfigError, match=r"mask_ratio = 0\.0"):
        quick(cells(), mask_ratio=0.0)
