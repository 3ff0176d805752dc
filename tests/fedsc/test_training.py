import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix
from fedsc.errors import DataError
from fedsc.methods import load_objective, method_of
from fedsc.options import TrainingOptions
from fedsc.rng import torch_generator
from fedsc.training import batches, embed_cells, learning_rate, train_lab, with_kept_norm


def _cells(n, genes=12, seed=0):
    values = np.random.default_rng(seed).poisson(1.0, size=(n, genes)).astype(np.float32)
    ones = np.ones(genes, dtype=np.float32)
    return CellMatrix(csr_matrix(values), ones, ones, 10.0, np.ones(genes, dtype=bool))


def _start(config, cells):
    objective = load_objective(method_of(config.method))
    weights = objective.init(cells.n_genes, config.method, torch_generator(config.run.seed, "init"))
    return objective, {name: tensor.numpy() for name, tensor in weights.items()}


def _train(config, cells, round_=1, private=None, start=None, lab="lab"):
    objective, fresh = _start(config, cells)
    return train_lab(
        objective,
        start or fresh,
        private or {},
        cells,
        config.method,
        config.training,
        seed=config.run.seed,
        lab=lab,
        round_=round_,
    )


@given(st.integers(1, 400), st.integers(2, 130))
def test_batches_hold_every_cell_once_and_never_one_alone(n, size):
    found = list(batches(n, size, torch.Generator().manual_seed(n)))
    assert sorted(np.concatenate(found)) == list(range(n))
    sizes = [len(rows) for rows in found]
    assert all(s == size for s in sizes[:-1])
    assert sizes[-1] <= size + 1
    assert 1 not in sizes or n == 1


def test_a_trailing_cell_joins_the_batch_before():
    assert [len(rows) for rows in batches(257, 128, torch.Generator())] == [128, 129]
    assert [len(rows) for rows in batches(258, 128, torch.Generator())] == [128, 128, 2]
    assert [len(rows) for rows in batches(3, 128, torch.Generator())] == [3]


def test_schedules():
    constant = TrainingOptions(rounds=100)
    cosine = TrainingOptions(rounds=100, schedule="cosine")
    assert learning_rate(constant, 1) == learning_rate(constant, 100) == 0.032
    assert learning_rate(cosine, 1) == 0.032
    assert learning_rate(cosine, 51) == pytest.approx(0.016)
    assert 0 < learning_rate(cosine, 100) < 1e-4


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_same_arguments_give_the_same_bits_and_leave_them_alone(optimizer):
    config, cells = Config.of(batch_size=8, local_epochs=2, optimizer=optimizer), _cells(30)
    _, start = _start(config, cells)
    before = {name: array.copy() for name, array in start.items()}
    torch.manual_seed(1)
    one = _train(config, cells, start=start)
    torch.manual_seed(2)
    torch.rand(5)
    two = _train(config, cells, start=start)
    assert all(one.shared[n].tobytes() == two.shared[n].tobytes() for n in one.shared)
    assert all(one.private[n].tobytes() == two.private[n].tobytes() for n in one.private)
    assert one.loss == two.loss
    assert all(np.array_equal(start[n], before[n]) for n in before)


@pytest.mark.parametrize("change", [{"lab": "other"}, {"round_": 2}])
def test_lab_and_round_draw_their_own_masks(change):
    config, cells = Config.of(batch_size=8, local_epochs=1), _cells(30)
    assert _train(config, cells).loss != _train(config, cells, **change).loss


@pytest.mark.parametrize("method", ["fedsc", "fedsimclr", "fedmoco-v1"])
def test_a_lab_of_three_cells_trains(method):
    result = _train(Config.of(method=method, queue=8), _cells(3))
    assert result.n_cells == 3
    assert np.isfinite(result.loss)


def test_a_lab_of_one_cell_says_why_it_cannot_train():
    with pytest.raises(DataError, match="a single cell, and batch norm needs two"):
        _train(Config.of(), _cells(1))
    assert _train(Config.of(norm="layer", local_epochs=1), _cells(1)).loss >= 0


def test_loss_falls():
    config, cells = Config.of(batch_size=16, local_epochs=10), _cells(64)
    first = _train(config, cells)
    later = _train(config, cells, round_=2, private=first.private, start=first.shared)
    assert later.loss < first.loss


def test_collapse_is_seen():
    config, cells = Config.of(batch_size=16, local_epochs=1), _cells(64)
    assert _train(config, cells).embedding_std > 0.1
    _, start = _start(config, cells)
    start["encoder.2.weight"] = np.zeros_like(start["encoder.2.weight"])
    start["encoder.2.bias"] = np.ones_like(start["encoder.2.bias"])
    frozen = Config.of(batch_size=16, local_epochs=1, learning_rate=1e-12)
    assert _train(frozen, cells, start=start).embedding_std < 1e-6


def test_local_norm_stays_in_the_lab():
    config, cells = Config.of(batch_size=8, local_epochs=1, local_norm=True), _cells(30)
    _, start = _start(config, cells)
    first = _train(config, cells, start=start)
    for name in start:
        same = np.array_equal(first.shared[name], start[name])
        without_effect = name in ("encoder.0.bias", "encoder.1.bias")  # batch norm takes it away
        assert same == (".norm." in name or without_effect), name
    kept = {n for n in first.private if n.startswith("norm:")}
    assert kept == {f"norm:{n}" for n in start if ".norm." in n}
    own = with_kept_norm(first.shared, first.private)
    name = "encoder.0.norm.running_mean"
    assert not np.array_equal(own[name], start[name])
    # The next round goes on from the kept ones, not from those received.
    second = _train(config, cells, round_=2, private=first.private, start=start)
    moved = np.abs(second.private[f"norm:{name}"] - start[name]).sum()
    assert moved > np.abs(first.private[f"norm:{name}"] - start[name]).sum()


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_norms(norm):
    result = _train(Config.of(batch_size=8, local_epochs=1, norm=norm), _cells(30))
    assert any(".norm." in name for name in result.shared) == (norm != "none")
    assert any("running" in name for name in result.shared) == (norm == "batch")


def test_embedding_is_unit_length_and_the_same_in_parts():
    config, cells = Config.of(), _cells(9000, genes=30)
    _, start = _start(config, cells)
    embedding = embed_cells(start, cells)
    assert embedding.shape == (9000, 60)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    few = CellMatrix(cells.values[8000:8003], cells.mean, cells.std, 10.0, cells.measured)
    np.testing.assert_allclose(embedding[8000:8003], embed_cells(start, few), atol=1e-6)
    raw = embed_cells(start, few, unit=False)
    np.testing.assert_allclose(
        raw / np.linalg.norm(raw, axis=1, keepdims=True), embedding[8000:8003], atol=1e-6
    )


@pytest.mark.parametrize("predictor", [True, False])
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_all_ablations_train(predictor, ema, stop_gradient):
    config = Config.of(
        method="fedbyol",
        batch_size=8,
        local_epochs=2,
        predictor=predictor,
        ema=ema,
        stop_gradient=stop_gradient,
    )
    first = _train(config, _cells(30))
    second = _train(config, _cells(30), round_=2, private=first.private, start=first.shared)
    assert np.isfinite(second.loss)
    assert bool(first.private) == ema
    assert any(n.startswith("predictor.") for n in first.shared) == predictor
