from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from fedsc.baselines import mask_training
from fedsc.baselines.mask_sc import PRESETS
from fedsc.baselines.mask_training import (
    Preset,
    layout_of,
    learning_rate,
    masked_loss,
    shape_of,
    train,
)
from fedsc.baselines.method import Settings
from fedsc.baselines.patch_targets import features_of
from fedsc.data.preprocess import CellMatrix
from fedsc.errors import RunError
from fedsc.models.masked import draw_masks, init_masked
from fedsc.models.mlp import init_mlp

PRESET = Preset("tiny", epochs=4, warmup=1, batch_size=16, learning_rate=1e-3, side=8)


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    values = rng.poisson(rng.gamma(1.0, size=(2, 60)).repeat(20, axis=0)).astype(np.float32)
    mean, std = values.mean(axis=0), np.maximum(values.std(axis=0), 0.1)
    return CellMatrix(csr_matrix(np.log1p(values)), mean, std, 10.0, np.ones(60, dtype=bool))


@pytest.fixture
def teacher():
    return init_mlp("encoder", (60, 12, 9, 60), "batch", torch.Generator().manual_seed(5))


def run(cells, teacher, preset=PRESET, **settings):
    return train(cells, layout_of(preset, 60), teacher, preset, Settings(**settings))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("target", ["patch", "cell", "expression"])
@pytest.mark.parametrize("embedding", ["matrix", "sequence"])
def test_every_target_and_embedding_learns(cells, teacher, embedding, target):
    preset = replace(PRESET, embedding=embedding, target=target, epochs=12, learning_rate=3e-3)
    losses = run(cells, teacher, preset).losses
    assert len(losses) == 12
    assert losses[-1] < 0.95 * losses[0]


def test_recomputation_gives_the_same_bits(cells, teacher):
    plain, again = (run(cells, teacher, replace(PRESET, recompute=r)) for r in (False, True))
    assert same(plain.weights, again.weights)


@pytest.mark.parametrize("ratio", [0.1, 0.9])
@pytest.mark.parametrize("side", [8, 12])
def test_mask_ratio_and_matrix_size_can_be_changed(cells, teacher, side, ratio):
    losses = run(cells, teacher, replace(PRESET, side=side, mask_ratio=ratio, epochs=2)).losses
    assert np.isfinite(losses).all()


def test_same_seed_same_bits_other_seed_others(cells, teacher):
    first, again, other = (run(cells, teacher, seed=seed) for seed in (3, 3, 4))
    assert same(first.weights, again.weights)
    assert first.losses == again.losses
    assert not same(first.weights, other.weights)


def test_global_generators_are_neither_read_nor_moved(cells, teacher):
    torch.manual_seed(1)
    first = run(cells, teacher)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first.weights, run(cells, teacher).weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_interrupted_run_goes_on_to_the_same_bits(cells, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("fedsc.baselines.loop._SAVE_SECONDS", 0.0)
    whole = run(cells, teacher)

    def stop(phase, done, total, figures):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cells, teacher, checkpoint=tmp_path, progress=stop)
    resumed = run(cells, teacher, checkpoint=tmp_path)
    assert len(resumed.seconds) < len(resumed.losses) == 4
    assert resumed.losses == whole.losses
    assert same(resumed.weights, whole.weights)
    finished = run(cells, teacher, checkpoint=tmp_path)
    assert finished.seconds == []
    assert same(finished.weights, whole.weights)


def test_checkpoint_of_another_teacher_or_preset_is_refused(cells, teacher, tmp_path):
    run(cells, teacher, replace(PRESET, epochs=2), checkpoint=tmp_path)
    other = {name: weight + 1.0 for name, weight in teacher.items()}
    with pytest.raises(RunError, match="other data or options"):
        run(cells, other, replace(PRESET, epochs=2), checkpoint=tmp_path)
    with pytest.raises(RunError, match="other data or options"):
        run(cells, teacher, replace(PRESET, epochs=3), checkpoint=tmp_path)


def test_teacher_is_not_trained(cells, teacher):
    before = {name: weight.clone() for name, weight in teacher.items()}
    run(cells, teacher)
    assert same(teacher, before)
    assert not any(weight.requires_grad for weight in teacher.values())


def test_loss_moves_the_network_alone(cells, teacher):
    teacher = {name: weight.requires_grad_(True) for name, weight in teacher.items()}
    x = torch.from_numpy(cells.batch(np.arange(6)))
    for target in ("patch", "cell"):
        preset = replace(PRESET, target=target)
        layout = layout_of(preset, 60)
        weights = init_masked(shape_of(preset), torch.Generator().manual_seed(0))
        weights = {name: weight.requires_grad_(True) for name, weight in weights.items()}
        visible, hidden = draw_masks(6, layout.n_patches, 0.75, torch.Generator())
        features = features_of(target, teacher, layout)
        masked_loss(weights, x, features, layout, preset, visible, hidden).backward()
        assert all(weight.grad is None for weight in teacher.values())
        assert all(weight.grad is not None for weight in weights.values())


def test_learning_rate_warms_up_and_falls_as_a_cosine():
    base = PRESETS["base"]
    rates = [learning_rate(base, epoch) for epoch in (0, 20, 40, 820, 1600)]
    np.testing.assert_allclose(rates, [0, 0.5e-4, 1e-4, 0.5e-4, 0], atol=1e-12)
    assert learning_rate(replace(base, warmup=0), 0) == 1e-4


def test_matrices_decay_and_nothing_else():
    parameters = list(init_masked(shape_of(PRESET), torch.Generator()).values())
    decaying, others = mask_training._adamw(parameters, PRESETS["base"]).param_groups
    assert decaying["weight_decay"] == 0.05
    assert others["weight_decay"] == 0.0
    assert {p.dim() for p in decaying["params"]} == {2}
    assert {p.dim() for p in others["params"]} == {1}
    assert decaying["betas"] == (0.9, 0.95)


def test_base_is_the_papers():
    base = PRESETS["base"]
    assert (base.epochs, base.warmup, base.batch_size) == (1600, 40, 256)
    assert (base.learning_rate, base.weight_decay, base.mask_ratio) == (1e-4, 0.05, 0.75)
    assert (base.side, base.embedding, base.target) == (64, "matrix", "patch")
