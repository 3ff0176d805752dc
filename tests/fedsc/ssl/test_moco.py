import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedsc.models.encoder import project
from fedsc.options import MethodOptions
from fedsc.ssl import simclr
from fedsc.ssl.moco import V1, V2

GENES = 10
VERSIONS = pytest.mark.parametrize(
    ("objective", "temperature"), [(V1, 0.07), (V2, 0.2)], ids=["v1", "v2"]
)


def _nothing(loss):
    """Descend no step at all."""


def _views(n, generator, dtype=torch.float32):
    return torch.randn(n, 2, GENES, generator=generator, dtype=dtype)


def _keys(state, views):
    """Compute the keys of second views on a copy of the key network."""
    private = {name: tensor.clone() for name, tensor in state.private.items()}
    with torch.no_grad():
        return F.normalize(project(private, views[:, 1], "key."), dim=1)


class Ring:
    """The queue as a list, one key at a time."""

    def __init__(self, length):
        self.slots, self.length, self.count = [], length, 0

    def push(self, keys):
        for key in keys:
            if len(self.slots) < self.length:
                self.slots.append(key)
            else:
                self.slots[self.count % self.length] = key
            self.count += 1

    def check(self, private):
        assert private["queue"].shape == (self.length, 128)
        assert private["queue.filled"] == len(self.slots)
        assert private["queue.next"] == self.count % self.length
        if self.slots:
            filled = private["queue"][: len(self.slots)]
            torch.testing.assert_close(filled, torch.stack(self.slots), rtol=0, atol=0)
        assert not private["queue"][len(self.slots) :].any()


def _slow_info_nce(q, k, negatives, temperature):
    total = 0.0
    for query, key in zip(q, k, strict=True):
        candidates = torch.stack([key, *negatives])
        logits = F.cosine_similarity(query[None], candidates) / temperature
        total = total - F.log_softmax(logits, dim=0)[0]
    return total / len(q)


def test_queue_matches_a_list_over_100_steps(generator, sgd):
    config = MethodOptions(queue=23, target_momentum=0.9)
    shared = V1.init(GENES, config, generator)
    state = V1.begin(shared, {}, 500, config, generator)
    descend, ring = sgd(state), Ring(23)
    ring.check(state.private)
    sizes = torch.randint(2, 60, (100,), generator=generator).tolist()
    assert min(sizes) < 23 < 46 < max(sizes)
    for n in sizes:
        views = _views(n, generator)
        keys = _keys(state, views)
        V1.step(state, views, descend, config)
        ring.push(keys)
        ring.check(state.private)


@given(st.integers(1, 9), st.lists(st.integers(2, 30), max_size=12))
def test_queue_matches_a_list_for_any_sizes(length, sizes):
    generator = torch.Generator().manual_seed(0)
    config = MethodOptions(queue=length, norm="none")
    state = V1.begin(V1.init(GENES, config, generator), {}, 50, config, generator)
    ring = Ring(length)
    for n in sizes:
        views = _views(n, generator)
        keys = _keys(state, views)
        V1.step(state, views, _nothing, config)
        ring.push(keys)
        ring.check(state.private)


@VERSIONS
def test_training_matches_torch_modules(objective, temperature, generator, double, network, sgd):
    config = MethodOptions(queue=12, target_momentum=0.9)
    shared = double(objective.init(GENES, config, generator))
    query = network(shared)
    key = copy.deepcopy(query)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.05, momentum=0.5)
    state = objective.begin(shared, {}, 500, config, generator)
    descend, ring = sgd(state, lr=0.05, momentum=0.5), Ring(12)
    for n in (5, 4, 6, 20, 3):
        views = _views(n, generator, torch.float64)
        loss = objective.step(state, views, descend, config)

        with torch.no_grad():
            k = F.normalize(key.project(views[:, 1]), dim=1)
        expected = _slow_info_nce(query.project(views[:, 0]), k, ring.slots, temperature)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)
        ring.push(k)

        torch.testing.assert_close(loss, expected.detach())
        assert not loss.requires_grad

    for name, tensor in query.as_weights().items():
        torch.testing.assert_close(state.shared[name], tensor, msg=name)
    for name, tensor in key.as_weights().items():
        torch.testing.assert_close(state.private[f"key.{name}"], tensor, msg=name)


def test_a_set_temperature_goes_before_the_methods_own(generator):
    losses = []
    for objective in (V1, V2):
        config = MethodOptions(temperature=0.5)
        rng = torch.Generator().manual_seed(1)
        shared = V1.init(GENES, config, rng)  # one network for both
        state = objective.begin(shared, {}, 50, config, rng)
        for _ in range(2):
            loss = objective.step(state, _views(8, rng), _nothing, config)
        losses.append(loss)
    assert losses[0] > 0
    assert torch.equal(losses[0], losses[1])


def test_the_first_step_has_no_negatives_and_moves_nothing(generator, sgd):
    config = MethodOptions()
    shared = V1.init(GENES, config, generator)
    before = {name: tensor.clone() for name, tensor in shared.items()}
    state = V1.begin(shared, {}, 100, config, generator)
    descend = sgd(state)

    assert V1.step(state, _views(8, generator), descend, config) == 0
    assert all(
        torch.equal(state.shared[name], before[name]) for name in before if "running" not in name
    )
    assert state.private["queue.filled"] == 8

    assert V1.step(state, _views(8, generator), descend, config) > 0
    assert not torch.equal(state.shared["encoder.0.weight"], before["encoder.0.weight"])


@pytest.mark.parametrize(
    ("queue", "n_cells", "length"), [(4096, 700, 700), (100, 700, 100), (64, 64, 64), (10, 1, 1)]
)
def test_the_queue_is_never_longer_than_the_lab(queue, n_cells, length, generator):
    config = MethodOptions(queue=queue)
    state = V1.begin(V1.init(GENES, config, generator), {}, n_cells, config, generator)
    assert state.private["queue"].shape == (length, 128)
    assert state.private["queue.filled"] == state.private["queue.next"] == 0


@VERSIONS
def test_rounds_keep_the_queue_and_renew_the_key_network(objective, temperature, generator, sgd):
    config = MethodOptions(queue=20)
    state = objective.begin(objective.init(GENES, config, generator), {}, 100, config, generator)
    objective.step(state, _views(13, generator), sgd(state), config)
    queue = {name: state.private[name].clone() for name in state.private if "queue" in name}

    received = objective.init(GENES, config, generator)
    kept = load(save(state.private))  # what a lab's disk gives back
    state = objective.begin(received, kept, 100, config, generator)

    assert all(torch.equal(state.private[name], tensor) for name, tensor in queue.items())
    assert queue["queue.filled"] == 13
    for name, tensor in received.items():
        assert torch.equal(state.private[f"key.{name}"], tensor)
        assert state.private[f"key.{name}"].data_ptr() != tensor.data_ptr()
    integers = {n for n, tensor in state.private.items() if tensor.dtype == torch.int64}
    assert integers == {"queue.filled", "queue.next"}
    assert all(t.dtype == torch.float32 for n, t in state.private.items() if n not in integers)


def test_a_lab_that_has_grown_starts_a_new_queue(generator):
    config = MethodOptions()
    shared = V1.init(GENES, config, generator)
    state = V1.begin(shared, {}, 30, config, generator)
    V1.step(state, _views(8, generator), _nothing, config)
    shared = {name: tensor.detach() for name, tensor in shared.items()}
    state = V1.begin(shared, state.private, 40, config, generator)

    assert state.private["queue"].shape == (40, 128)
    assert state.private["queue.filled"] == 0


def test_keys_are_of_unit_length_and_never_trained(generator, sgd):
    config = MethodOptions(queue=16)
    state = V2.begin(V2.init(GENES, config, generator), {}, 100, config, generator)
    descend = sgd(state)
    for _ in range(4):
        V2.step(state, _views(8, generator), descend, config)

    torch.testing.assert_close(state.private["queue"].norm(dim=1), torch.ones(16))
    assert all(t.grad is None and not t.requires_grad for t in state.private.values())


def test_heads(generator):
    def draw(objective):
        return objective.init(GENES, MethodOptions(), torch.Generator().manual_seed(3))

    one, two, of_simclr = draw(V1), draw(V2), draw(simclr.OBJECTIVE)
    assert all(torch.equal(one[name], of_simclr[name]) for name in of_simclr)
    assert set(one) == set(of_simclr)
    heads = {n: tuple(w.shape) for n, w in two.items() if not n.startswith("encoder.")}
    assert heads == {
        "projector.0.weight": (60, 60),
        "projector.0.bias": (60,),
        "projector.1.weight": (128, 60),
        "projector.1.bias": (128,),
    }
    assert all(torch.equal(one[n], two[n]) for n in one if n.startswith("encoder."))
