import copy
from contextlib import nullcontext
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from fedsc.models.names import is_buffer
from fedsc.options import MethodOptions
from fedsc.ssl.byol import OBJECTIVE

GENES = 10
SWITCHES = [
    {"predictor": p, "ema": e, "stop_gradient": s} for p, e, s in product([True, False], repeat=3)
]
ALL_SWITCHES = pytest.mark.parametrize(
    "switches", SWITCHES, ids=lambda s: " ".join(n for n, on in s.items() if on) or "none"
)


def _batches(count, generator, dtype=torch.float64):
    return [torch.randn(8, 2, GENES, generator=generator, dtype=dtype) for _ in range(count)]


def _reference(weights, batches, config, lr):
    """BYOL from torch's modules, one line after the other; gives online and target network."""
    online = weights
    target = copy.deepcopy(online) if config.ema else online
    networks = [online] if config.stop_gradient or not config.ema else [online, target]
    optimizer = torch.optim.SGD(
        [p for n in networks for p in n.parameters()], lr=lr, momentum=0.5, weight_decay=5e-4
    )
    predict = online.predict if config.predictor else online.project
    losses = []
    for view_1, view_2 in (batch.unbind(1) for batch in batches):
        with torch.no_grad() if config.stop_gradient else nullcontext():
            t_1, t_2 = target.project(view_1), target.project(view_2)
        p_1, p_2 = predict(view_1), predict(view_2)
        rows = 4 - 2 * F.cosine_similarity(p_1, t_2) - 2 * F.cosine_similarity(p_2, t_1)
        loss = rows.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if config.ema:
            with torch.no_grad():
                for t, o in zip(target.parameters(), online.parameters(), strict=True):
                    t.copy_(config.target_momentum * t + (1 - config.target_momentum) * o)
    return online, target, losses


@ALL_SWITCHES
def test_training_matches_torch_modules(switches, generator, double, network, sgd):
    # The moving average of the reference also moves a predictor nobody uses.
    config = MethodOptions(target_momentum=0.9, **switches)
    shared = double(OBJECTIVE.init(GENES, config, generator))
    reference = network(shared)
    batches = _batches(6, generator)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    descend = sgd(state, lr=0.05, momentum=0.5, weight_decay=5e-4)
    losses = [OBJECTIVE.step(state, batch, descend, config).item() for batch in batches]
    online, target, expected_losses = _reference(reference, batches, config, lr=0.05)

    assert losses == pytest.approx(expected_losses, rel=1e-9)
    expected = online.as_weights()
    for name, tensor in state.shared.items():
        # The reference passes a view twice through a shared network, its statistics move twice.
        if config.ema or not is_buffer(name):
            torch.testing.assert_close(tensor, expected[name], msg=name)
    expected = target.as_weights()
    for name, tensor in state.private.items():
        torch.testing.assert_close(tensor, expected[name.removeprefix("target.")], msg=name)


@ALL_SWITCHES
def test_every_ablation_runs_in_float32_with_the_expected_tensors(switches, generator, sgd):
    config = MethodOptions(**switches)
    shared = OBJECTIVE.init(GENES, config, generator)
    names = set(shared)
    online = {n for n in names if n.startswith(("encoder.", "projector."))}
    predictor = {"predictor.0.weight", "predictor.0.bias"} if config.predictor else set()
    assert names == online | predictor

    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    descend = sgd(state)
    losses = [
        OBJECTIVE.step(state, batch, descend, config)
        for batch in _batches(3, generator, torch.float32)
    ]

    assert all(torch.isfinite(loss) and 0 <= loss <= 8 for loss in losses)
    assert not any(loss.requires_grad for loss in losses)
    assert set(state.shared) == names
    assert set(state.private) == ({f"target.{n}" for n in online} if config.ema else set())
    tensors = {**state.shared, **state.private}
    assert all(torch.isfinite(t).all() and t.dtype == torch.float32 for t in tensors.values())
    trained = {n for n in tensors if tensors[n].requires_grad}
    of_target = config.ema and not config.stop_gradient
    assert trained == {
        n for n in tensors if not is_buffer(n) and (of_target or not n.startswith("target."))
    }


def test_the_target_never_receives_a_gradient(generator, sgd):
    config = MethodOptions()
    shared = OBJECTIVE.init(GENES, config, generator)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    descend = sgd(state)
    for batch in _batches(3, generator, torch.float32):
        OBJECTIVE.step(state, batch, descend, config)

    assert all(w.grad is None and not w.requires_grad for w in state.private.values())
    assert all(w.grad is not None for n, w in state.shared.items() if not is_buffer(n))


def test_without_stop_gradient_the_target_does(generator, sgd):
    config = MethodOptions(stop_gradient=False)
    shared = OBJECTIVE.init(GENES, config, generator)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    OBJECTIVE.step(state, *_batches(1, generator, torch.float32), sgd(state), config)

    assert all(w.grad is not None for n, w in state.private.items() if not is_buffer(n))


def test_the_target_moves_by_the_moving_average_alone(generator):
    config = MethodOptions(target_momentum=0.9)
    shared = OBJECTIVE.init(GENES, config, generator)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    history = [{n: w.detach().clone() for n, w in shared.items()}]

    def jump(loss):  # an "optimiser" whose path is known
        with torch.no_grad():
            for weight in state.trainable():
                weight += 1.0
        history.append({n: w.detach().clone() for n, w in state.shared.items()})

    for batch in _batches(10, generator, torch.float32):
        OBJECTIVE.step(state, batch, jump, config)

    # W^o = W₀ + i after step i, so W^t = m·W^t + (1 − m)·W^o sums to W₀ + n − (1 − mⁿ)·m/(1 − m).
    n, m = 10, 0.9
    shift = n - m * (1 - m**n) / (1 - m)
    for name, tensor in state.private.items():
        if not is_buffer(name):
            expected = history[0][name.removeprefix("target.")] + shift
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-5)


def test_the_target_starts_as_a_copy_and_survives_rounds(generator):
    config = MethodOptions()
    first = OBJECTIVE.init(GENES, config, generator)
    state = OBJECTIVE.begin(first, {}, 8, config, generator)
    target = {n: w.clone() for n, w in state.private.items()}
    assert all(torch.equal(w, first[n.removeprefix("target.")]) for n, w in target.items())

    second = OBJECTIVE.init(GENES, config, generator)
    assert not torch.equal(first["encoder.0.weight"], second["encoder.0.weight"])
    state = OBJECTIVE.begin(second, state.private, 8, config, generator)
    assert all(torch.equal(w, target[n]) for n, w in state.private.items())


@pytest.mark.parametrize(
    ("matrix", "loss"),
    [
        (torch.eye(128), 0.0),
        (-torch.eye(128), 8.0),
        (torch.kron(torch.eye(64), torch.tensor([[0.0, -1.0], [1.0, 0.0]])), 4.0),
    ],
    ids=["parallel", "opposite", "orthogonal"],
)
def test_loss_by_hand(matrix, loss, generator, sgd):
    # Equal views and an untouched target: the predictor alone sets the angle, in both directions.
    config = MethodOptions()
    shared = OBJECTIVE.init(GENES, config, generator)
    shared["predictor.0.weight"] = matrix.clone()
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    views = torch.randn(8, 1, GENES, generator=generator).repeat(1, 2, 1)

    actual = OBJECTIVE.step(state, views, sgd(state), config)
    assert actual.item() == pytest.approx(loss, abs=1e-5)


@ALL_SWITCHES
def test_the_views_play_the_same_role(switches, generator, double, sgd):
    config = MethodOptions(**switches)
    start = double(OBJECTIVE.init(GENES, config, generator))
    (batch,) = _batches(1, generator)
    ends = []
    for views in (batch, batch.flip(1)):
        shared = {n: w.clone() for n, w in start.items()}
        state = OBJECTIVE.begin(shared, {}, 8, config, generator)
        ends.append((OBJECTIVE.step(state, views, sgd(state), config), state.shared))

    torch.testing.assert_close(ends[0][0], ends[1][0])
    for name, tensor in ends[0][1].items():
        if not is_buffer(name):  # running statistics weigh the later view more
            torch.testing.assert_close(tensor, ends[1][1][name])


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_other_normalisations_take_a_batch_of_one(norm, generator, sgd):
    config = MethodOptions(norm=norm)
    state = OBJECTIVE.begin(OBJECTIVE.init(GENES, config, generator), {}, 1, config, generator)
    views = torch.randn(1, 2, GENES, generator=generator)
    assert torch.isfinite(OBJECTIVE.step(state, views, sgd(state), config))
