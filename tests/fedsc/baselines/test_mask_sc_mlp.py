import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from fedsc.baselines.mask_sc_mlp import fit, hidden_loss
from fedsc.baselines.method import Settings
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError
from fedsc.models.mlp import init_mlp, mlp

QUICK = {"epochs": 20, "n_genes": 120, "batch_size": 32}


def file(n_cells=50, n_types=2):
    rng = np.random.default_rng(0)
    types = np.arange(n_cells) % n_types
    counts = rng.poisson(rng.gamma(0.5, 4.0, size=(n_types, 150))[types]).astype(np.float32)
    counts[:, 0] = 3.0  # a constant gene
    cells = np.array([f"c{i}" for i in range(n_cells)])
    genes = np.array([f"g{i}" for i in range(150)], dtype=object)
    obs = pd.DataFrame({"type": types.astype(str)}, index=cells)
    return Expression(csr_matrix(counts), genes, cells, obs, "counts", "type")


def quick(expression, *, k=2, seed=0, checkpoint=None, **overrides):
    return fit(
        expression, Settings(k=k, seed=seed, overrides=QUICK | overrides, checkpoint=checkpoint)
    )


def test_result_and_its_record():
    expression = file()
    found = quick(expression)
    assert found.embedding.shape == (50, 60)
    same = found.clusters == expression.labels.astype(int)
    assert same.all() or not same.any()
    record = json.loads(json.dumps(found.record))
    assert record["genes"] == 120
    assert record["losses"][-1] < record["losses"][0]
    assert quick(expression, k=None).record["clusters"]["by"] == "leiden"


def test_loss_is_the_mean_square_over_hidden_values():
    generator = torch.Generator().manual_seed(0)
    weights = init_mlp("encoder", (7, 6, 5), "none", generator) | init_mlp(
        "decoder", (5, 7), "none", generator
    )
    x, scale = torch.randn(4, 7), (torch.rand(4, 7) > 0.7) * 4.0
    restored = mlp(weights, mlp(weights, x * scale, "encoder", training=True), "decoder",
                   training=True)  # fmt: skip
    errors = [
        float(restored[i, j] - x[i, j]) ** 2 for i in range(4) for j in range(7) if scale[i, j] == 0
    ]
    assert float(hidden_loss(weights, x, scale)) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(hidden_loss(weights, x, torch.ones(4, 7))) == 0.0


def test_hidden_values_cannot_reach_the_encoder():
    weights = init_mlp("encoder", (7, 6, 5), "batch", torch.Generator().manual_seed(0))
    x = torch.randn(4, 7, requires_grad=True)
    scale = (torch.arange(7) < 3).float().expand(4, -1)
    mlp(weights, x * scale, "encoder", training=True).square().sum().backward()
    assert (x.grad[:, 3:] == 0).all()
    assert (x.grad[:, :3] != 0).any()


def test_same_seed_same_bits():
    first, again, other = (quick(file(), seed=s, epochs=3).embedding for s in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsc.baselines.loop._SAVE_SECONDS", 0.0)

    def stop(phase, done, total, figures):
        if done == 3:
            raise KeyboardInterrupt

    settings = {"k": 2, "overrides": QUICK | {"epochs": 5}}
    with pytest.raises(KeyboardInterrupt):
        fit(file(), Settings(**settings, checkpoint=tmp_path, progress=stop))
    resumed = fit(file(), Settings(**settings, checkpoint=tmp_path))
    whole = fit(file(), Settings(**settings))
    assert resumed.embedding.tobytes() == whole.embedding.tobytes()
    assert resumed.record["losses"] == whole.record["losses"]


def test_one_type_gives_a_result():
    assert np.isfinite(quick(file(n_types=1), epochs=3).embedding).all()


@pytest.mark.parametrize(
    ("expression", "overrides", "error", "message"),
    [
        (file(), {"k": 51}, ConfigError, "k = 51 clusters cannot be made of 50 cells"),
        (file(n_cells=1), {}, DataError, "1 cell"),
        (file(), {"mask_ratio": 0.0}, ConfigError, "mask_ratio = 0.0"),
    ],
)
def test_bad_input_gets_a_clear_sentence(expression, overrides, error, message):
    with pytest.raises(error, match=message):
        quick(expression, **overrides)
