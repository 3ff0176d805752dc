import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.federated.pull import (
    automatic_lambda,
    divergence,
    fedema_mu,
    fedsc_mu,
    interpolate,
    pull_mu,
)
from fedsc.options import MethodOptions

NAMES = (
    "encoder.0.weight",
    "encoder.0.norm.running_mean",
    "projector.0.bias",
    "predictor.0.weight",
)


def _weights(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=(3, 4))).astype(np.float32) for name in NAMES}


def test_divergence_is_one_norm_over_the_online_parameters():
    # Encoder differs by 3, projector by 4: √(3² + 4²) = 5; statistics and predictor do not count.
    zero = {name: np.zeros(1, dtype=np.float32) for name in NAMES}
    local = dict(zip(NAMES, map(np.float32, ([3.0], [100.0], [4.0], [100.0])), strict=True))
    assert divergence(zero, local) == 5.0


def test_divergence_equals_a_slow_loop():
    a, b = _weights(0), _weights(1)
    slow = 0.0
    for name in ("encoder.0.weight", "projector.0.bias"):
        for x, y in zip(a[name].ravel(), b[name].ravel(), strict=True):
            slow += (float(x) - float(y)) ** 2
    assert divergence(a, b) == pytest.approx(math.sqrt(slow), rel=1e-12)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_no_bit_of_the_divergence_depends_on_the_order_of_tensors(seed, random):
    rng = np.random.default_rng(seed)
    names = [f"encoder.{i}.weight" for i in range(8)]
    a, b = ({name: rng.normal(size=5).astype(np.float32) for name in names} for _ in range(2))
    random.shuffle(names)
    assert divergence({name: a[name] for name in names}, b) == divergence(a, b)


def test_a_checkpoint_changes_no_bit_of_the_divergence(tmp_path):
    from server_app.checkpoint import ServerState, load_checkpoint, save_checkpoint

    rng = np.random.default_rng(0)
    names = [f"{part}.{i}.weight" for part in ("projector", "encoder") for i in (3, 1, 2)]
    a, b = ({name: rng.normal(size=(7, 5)).astype(np.float32) for name in names} for _ in range(2))
    save_checkpoint(tmp_path / "checkpoint", ServerState(1, a, {"A": b}), "of")
    kept = load_checkpoint(tmp_path / "checkpoint", "of")
    assert list(kept.weights) != names
    assert divergence(kept.weights, kept.uploads["A"]) == divergence(a, b)


@pytest.mark.parametrize(("d", "mu"), [(0.0, 1.0), (0.35, 1.0), (0.7, 1.0), (1.4, 0.5), (7.0, 0.1)])
def test_eq_4_by_hand(d, mu):
    assert fedsc_mu(d, alpha=0.7) == pytest.approx(mu, rel=1e-12)


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_eqs_3_and_4_project_onto_the_ball_around_the_global_model(alpha, seed):
    global_, local = _weights(seed), _weights(seed + 1, scale=3.0)
    d = divergence(global_, local)
    pulled = interpolate(global_, local, fedsc_mu(d, alpha))
    assert divergence(global_, pulled) == pytest.approx(min(alpha, d), rel=1e-4)


def test_predictor_moves_with_the_encoder_and_statistics_are_global():
    global_, local = _weights(0), _weights(1)
    pulled = interpolate(global_, local, 0.25)
    for name in ("encoder.0.weight", "predictor.0.weight"):
        np.testing.assert_allclose(
            pulled[name], 0.25 * local[name] + 0.75 * global_[name], rtol=1e-6
        )
    np.testing.assert_array_equal(pulled[NAMES[1]], global_[NAMES[1]])


@pytest.mark.parametrize(("mu", "which"), [(0.0, 0), (1.0, 1)])
def test_the_ends_keep_their_bits(mu, which):
    weights = _weights(0), _weights(1)
    pulled = interpolate(*weights, mu)
    assert pulled[NAMES[0]].tobytes() == weights[which][NAMES[0]].tobytes()


def test_fedema_grows_with_divergence_and_its_first_mu_is_tau():
    assert fedema_mu(2.0, 0.25) == 0.5
    assert fedema_mu(100.0, 0.25) == 1.0
    assert fedema_mu(3.0, automatic_lambda(3.0, tau=0.7)) == pytest.approx(0.7)
    assert automatic_lambda(0.0, tau=0.7) == 0.0


def test_rules_by_name():
    config = MethodOptions(alpha=0.5, mu=0.3)
    assert pull_mu(1.0, "fedsc", config, 0.0) == 0.5
    assert pull_mu(1.0, "fedema", config, 0.2) == 0.2
    assert pull_mu(1.0, "constant", config, 0.0) == 0.3
    assert pull_mu(1.0, "none", config, 0.0) == 0.0
