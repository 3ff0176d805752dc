"""Labs trained stacked: the same as each alone, whatever their sizes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix
from fedsc.methods import load_objective, method_of
from fedsc.rng import torch_generator
from fedsc.ssl.objective import Objective
from fedsc.stacked import stack, why_not
from fedsc.training import batch_sizes, train_lab
from simulations.benchmarks.gpu_check import (
    METHODS,
    farthest,
    first_weights,
    masks_of_labs,
    nothing_kept,
    round_alone,
    stack_of,
    stacked_round,
)

GENES = 16
SIZES = {"a": 33, "b": 17, "c": 5, "d": 41}  # with batches of 8: the last of a and d has 9 cells


def _cells(n, seed):
    generator = np.random.default_rng(seed)
    values = csr_matrix(generator.normal(size=(n, GENES)).astype(np.float32))
    zeros, ones = np.zeros(GENES, np.float32), np.ones(GENES, np.float32)
    return CellMatrix(values, zeros, ones, 10.0, np.ones(GENES, dtype=bool))


@pytest.fixture(scope="module")
def cells():
    return {lab: _cells(n, seed) for seed, (lab, n) in enumerate(SIZES.items())}


@pytest.fixture
def double(monkeypatch):
    """Compute in float64, so that only the order of sums can differ between two right ways."""
    of_float32 = CellMatrix.batch
    monkeypatch.setattr(CellMatrix, "batch", lambda self, rows: of_float32(self, rows).astype("f8"))
    torch.set_default_dtype(torch.float64)
    yield lambda weights: {name: array.astype("f8") for name, array in weights.items()}
    torch.set_default_dtype(torch.float32)


def _both_ways(config, cells, weights, rounds=1):
    """Train stacked and each lab alone, with the same masks; give both rounds' updates."""
    alone, drawn = round_alone(config, cells, "cpu"), []
    stacked = stack_of(config, cells, "cpu", views=lambda *given: drawn[-1](*given))
    kept = [nothing_kept(cells)] * 2
    for round_ in range(1, rounds + 1):
        drawn.append(masks_of_labs(stacked.labs, cells, config.training, round_))
        found = [
            train(weights, own, round_)
            for train, own in zip((stacked_round(stacked), alone), kept, strict=True)
        ]
        kept = [{lab: update.private for lab, update in updates.items()} for updates in found]
    return found


SWITCHES = [
    {"method": "fedbyol", "predictor": p, "ema": e, "stop_gradient": s}
    for p, e, s in product([True, False], repeat=3)
]
CASES = [
    *({"method": method} for method in METHODS),
    *SWITCHES[1:],
    {"norm": "layer"},
    {"norm": "none"},
    {"local_norm": True},
    {"momentum": 0.0, "schedule": "cosine"},
    {"method": "fedmoco-v1", "queue": 7},  # shorter than a batch
    {"method": "fedsimclr", "norm": "layer", "temperature": 0.5},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_labs_of_unequal_sizes_train_as_each_does_alone(case, cells, double):
    config = Config.of(batch_size=8, local_epochs=1, rounds=3, **case)
    weights = double(first_weights(config, cells))
    stacked, alone = _both_ways(config, cells, weights, rounds=2)
    assert farthest(stacked, alone) < 1e-7
    for lab, update in stacked.items():
        for part in ("shared", "private"):
            mine, theirs = getattr(update, part), getattr(alone[lab], part)
            assert list(mine) == list(theirs)
            for name, array in mine.items():
                assert (array.shape, array.dtype) == (theirs[name].shape, theirs[name].dtype)
                assert array.base is None  # no lab holds the memory of the others
        assert update.n_cells == SIZES[lab]
        assert update.embedding_std == pytest.approx(alone[lab].embedding_std, rel=1e-7)
        moved = max(np.abs(update.shared[name] - weights[name]).max() for name in weights)
        assert moved > 1e-3


@pytest.mark.parametrize("labs", ["d", "ad"])
@pytest.mark.parametrize("method", METHODS)
def test_ten_steps_in_single_precision(method, labs, cells):
    chosen = {lab: cells[lab] for lab in labs}
    config = Config.of(method=method, batch_size=8, local_epochs=2, learning_rate=0.01)
    assert max(len(batch_sizes(SIZES[lab], 8)) for lab in labs) * 2 == 10
    stacked, alone = _both_ways(config, chosen, first_weights(config, chosen))
    assert farthest(stacked, alone) < 1e-5


def test_what_labs_kept_and_received_is_each_labs_own(cells, double):
    """Other start weights and private states in each lab, one of them new in this round."""
    config = Config.of(method="fedmoco-v1", batch_size=8, local_epochs=1, local_norm=True)
    objective = load_objective(method_of(config.method))
    starts, private = {}, {}
    for i, lab in enumerate(cells):
        drawn = objective.init(GENES, config.method, torch_generator(i, "init"))
        starts[lab] = double({name: tensor.numpy() for name, tensor in drawn.items()})
        private[lab] = {}
        if lab != "b":
            update = round_alone(config, {lab: cells[lab]}, "cpu")(starts[lab], {lab: {}}, 1)[lab]
            private[lab] = update.private
    untouched = {lab: {n: a.copy() for n, a in own.items()} for lab, own in starts.items()}

    order = stack_of(config, cells, "cpu").labs
    views = masks_of_labs(order, cells, config.training, 2)
    whole = stack_of(config, cells, "cpu", views=views)
    found = whole.train(starts, private, seed=0, round_=2)
    for lab, own in cells.items():
        alone = train_lab(
            objective, starts[lab], private[lab], own, config.method, config.training,
            seed=0, lab=lab, round_=2,
        )  # fmt: skip
        assert farthest({lab: found[lab]}, {lab: alone}) < 1e-9
        assert all(np.array_equal(starts[lab][n], a) for n, a in untouched[lab].items())


def test_rounds_begin_anew_whatever_was_trained_before(cells):
    config = Config.of(method="fedmoco-v2", batch_size=8, local_epochs=1)
    weights, nothing = first_weights(config, cells), nothing_kept(cells)
    used = stacked_round(stack_of(config, cells, "cpu"))
    used(weights, nothing, 1)
    fresh = stacked_round(stack_of(config, cells, "cpu"))
    again, expected = (train(weights, nothing, 2) for train in (used, fresh))
    assert farthest(again, expected) == 0
    assert farthest(again, used(weights, nothing, 3)) > 0  # a round has masks of its own


def test_a_lab_without_a_batch_does_not_move(cells):
    """A step of the first labs leaves every tensor of the others as it was, to the bit."""
    config = Config.of(method="fedmoco-v1", batch_size=8, local_epochs=1)
    stacked = stack_of(config, cells, "cpu")
    stacked_round(stacked)(first_weights(config, cells), nothing_kept(cells), 1)
    assert stacked.labs == ["d", "a", "b", "c"]
    tensors = [*stacked._state.shared.values(), *stacked._state.private.values()]
    tensors += [*stacked._velocities, stacked._total]
    before = [tensor.detach().clone() for tensor in tensors]
    stacked._steps[2]()
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor[2:], old[2:])
    assert not torch.equal(tensors[0][:2], before[0][:2])


def test_queues_of_unequal_lengths_are_filled_up():
    config = Config.of(method="fedmoco-v1")
    objective = load_objective(method_of(config.method))
    states = [
        objective.begin(
            objective.init(GENES, config.method, torch_generator(0, "init")), {}, n,
            config.method, torch_generator(0, "begin"),
        )
        for n in (5, 9)
    ]  # fmt: skip
    both = stack(states, "cpu")
    assert both.private["queue"].shape == (2, 9, 128)
    assert both.private["queue.filled"].shape == (2,)
    assert both.shared["encoder.0.weight"].shape == (2, 200, GENES)
    assert len(both.trainable()) == len(states[0].trainable())


def test_what_cannot_be_stacked_is_told(cells):
    config = Config.of()
    objective = load_objective(method_of(config.method))
    few = list(cells.values())

    def reason(objective=objective, cells=few, config=config):
        return why_not(objective, cells, config.method, config.training, "cpu")

    assert reason() is None
    own = Objective(objective.init, objective.begin, objective.step)
    assert reason(own) == "the objective has no stacked form"
    assert "adamw" in reason(config=Config.of(optimizer="adamw"))
    alone = replace(few[0], values=few[0].values[:1])
    assert "one cell" in reason(cells=[*few, alone])
    assert reason(cells=[*few, alone], config=Config.of(norm="layer")) is None


def test_cells_that_fill_the_gpu_are_told(cells, monkeypatch):
    config = Config.of()
    objective = load_objective(method_of(config.method))
    bytes_ = sum(SIZES.values()) * GENES * 4
    for free, fits in ((2 * bytes_, True), (2 * bytes_ - 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        told = why_not(objective, list(cells.values()), config.method, config.training, "cuda")
        assert (told is None) == fits
    assert "GB of the GPU" in told


@pytest.mark.parametrize("method", METHODS)
def test_a_step_takes_no_value_from_the_device(method, cells):
    """On tensors without values: whoever asks for one gets an error."""
    config = Config.of(method=method)
    objective = load_objective(method_of(config.method))
    states = [
        objective.begin(
            objective.init(GENES, config.method, torch_generator(0, "init")), {}, n,
            config.method, torch_generator(0, "begin"),
        )
        for n in SIZES.values()
    ]  # fmt: skip
    state = stack(states, "meta")
    state.share = torch.empty(4, 8, device="meta")
    state.n_cells = torch.empty(4, dtype=torch.int64, device="meta")
    views = torch.empty(4, 8, 2, GENES, device="meta")
    loss = objective.step(state, views, lambda loss: loss.sum().backward(), config.method)
    assert loss.shape == (4,)
    assert all(weight.grad.shape == weight.shape for weight in state.trainable())
    with pytest.raises(RuntimeError, match="meta"):
        loss[0].item()
