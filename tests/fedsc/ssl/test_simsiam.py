import pytest
import torch
import torch.nn.functional as F

from fedsc.options import MethodOptions
from fedsc.ssl import byol
from fedsc.ssl.simsiam import OBJECTIVE

GENES = 10


def test_training_matches_torch_modules(generator, double, network, sgd):
    config = MethodOptions()
    shared = double(OBJECTIVE.init(GENES, config, generator))
    reference = network(shared)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.2, momentum=0.5)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    descend = sgd(state, lr=0.2, momentum=0.5)
    for _ in range(6):
        views = torch.randn(8, 2, GENES, generator=generator, dtype=torch.float64)
        loss = OBJECTIVE.step(state, views, descend, config)

        z_1, z_2 = (reference.project(view) for view in views.unbind(1))
        p_1, p_2 = reference.predictor(z_1), reference.predictor(z_2)
        cosines = F.cosine_similarity(p_1, z_2.detach()) + F.cosine_similarity(p_2, z_1.detach())
        expected = -0.5 * cosines.mean()
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()

        torch.testing.assert_close(loss, expected.detach())
        assert not loss.requires_grad

    for name, tensor in reference.as_weights().items():  # statistics included: one pass a view
        torch.testing.assert_close(state.shared[name], tensor, msg=name)


def test_weights_are_byols_and_nothing_stays_in_the_lab(generator, sgd):
    config = MethodOptions()
    shared = OBJECTIVE.init(GENES, config, torch.Generator().manual_seed(5))
    of_byol = byol.OBJECTIVE.init(GENES, config, torch.Generator().manual_seed(5))
    assert list(shared) == list(of_byol)
    assert all(torch.equal(shared[name], of_byol[name]) for name in shared)

    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    OBJECTIVE.step(state, torch.randn(8, 2, GENES, generator=generator), sgd(state), config)
    assert state.private == {}


@pytest.mark.parametrize(("sign", "loss"), [(1.0, -1.0), (-1.0, 1.0)])
def test_loss_by_hand(sign, loss, generator, sgd):
    config = MethodOptions()
    shared = OBJECTIVE.init(GENES, config, generator)
    shared["predictor.0.weight"] = sign * torch.eye(128)
    state = OBJECTIVE.begin(shared, {}, 8, config, generator)
    views = torch.randn(8, 1, GENES, generator=generator).repeat(1, 2, 1)

    actual = OBJECTIVE.step(state, views, sgd(state), config)
    assert actual.item() == pytest.approx(loss, abs=1e-6)


def test_it_is_byol_without_moving_average_at_four_times_the_rate(generator, double, sgd):
    start = double(OBJECTIVE.init(GENES, MethodOptions(), generator))
    views = torch.randn(8, 2, GENES, generator=generator, dtype=torch.float64)
    ends = []
    for objective, config, lr in [
        (OBJECTIVE, MethodOptions(), 0.2),
        (byol.OBJECTIVE, MethodOptions(ema=False), 0.05),
    ]:
        shared = {name: tensor.clone() for name, tensor in start.items()}
        state = objective.begin(shared, {}, 8, config, generator)
        objective.step(state, views, sgd(state, lr=lr), config)
        ends.append(state.shared)

    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], msg=name)
