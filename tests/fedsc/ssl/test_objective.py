import pytest
import torch

from fedsc.models.names import is_buffer
from fedsc.options import MethodOptions
from fedsc.ssl.byol import init
from fedsc.ssl.objective import State, copy_as, mark_trainable, move_average


@pytest.fixture
def shared(generator, config):
    return init(9, config, generator)


@pytest.fixture
def config():
    return MethodOptions()


def test_copy_as_takes_the_online_network_alone_and_shares_no_memory(shared):
    mark_trainable(shared)
    copy = copy_as("target.", shared)

    online = {n for n in shared if not n.startswith("predictor.")}
    assert set(copy) == {f"target.{name}" for name in online}
    assert not any(tensor.requires_grad for tensor in copy.values())
    for name in online:
        assert torch.equal(copy[f"target.{name}"], shared[name])
        assert copy[f"target.{name}"].data_ptr() != shared[name].data_ptr()


def test_trainable_is_parameters_in_order(shared):
    mark_trainable(shared)
    state = State(shared, copy_as("target.", shared))
    assert [id(w) for w in state.trainable()] == [
        id(w) for name, w in shared.items() if not is_buffer(name)
    ]

    mark_trainable(state.private)
    assert len(state.trainable()) == len([n for n in [*shared, *state.private] if not is_buffer(n)])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 1.0])
def test_move_average_follows_the_closed_form(shared, double, generator, momentum):
    shared = double(shared)
    average = copy_as("target.", shared)
    first = {name: tensor.clone() for name, tensor in average.items()}
    history = []
    for _ in range(20):
        shared = {
            name: torch.randn(w.shape, generator=generator, dtype=w.dtype)
            for name, w in shared.items()
        }
        history.append(shared)
        move_average(average, "target.", shared, momentum)

    n = len(history)
    for name, tensor in average.items():
        online = name.removeprefix("target.")
        if is_buffer(name):  # follow the average's own forward passes
            expected = first[name]
        else:
            expected = momentum**n * first[name] + (1 - momentum) * sum(
                momentum ** (n - 1 - i) * weights[online] for i, weights in enumerate(history)
            )
        torch.testing.assert_close(tensor, expected)


def test_move_average_leaves_other_tensors_alone(shared):
    queue = torch.ones(3, 128)
    private = {**copy_as("key.", shared), "queue": queue, "queue.filled": torch.tensor(2)}
    move_average(private, "key.", {n: w + 1 for n, w in shared.items()}, 0.5)

    assert torch.equal(private["queue"], torch.ones(3, 128))
    assert private["queue.filled"] == 2
    torch.testing.assert_close(private["key.encoder.0.bias"], shared["encoder.0.bias"] + 0.5)
