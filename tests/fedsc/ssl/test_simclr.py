import math

import pytest
import torch
import torch.nn.functional as F

from fedsc.options import MethodOptions
from fedsc.ssl.simclr import OBJECTIVE

GENES = 10


def _slow_nt_xent(z_1, z_2, temperature):
    z = torch.cat([z_1, z_2])
    n = len(z_1)
    total = 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        logits = torch.stack([F.cosine_similarity(z[i], z[k], dim=0) for k in others]) / temperature
        total = total - F.log_softmax(logits, dim=0)[others.index((i + n) % (2 * n))]
    return total / (2 * n)


@pytest.mark.parametrize(("option", "temperature"), [(0.0, 0.07), (0.5, 0.5)])
def test_training_matches_torch_modules(option, temperature, generator, double, network, sgd):
    config = MethodOptions(temperature=option)
    shared = double(OBJECTIVE.init(GENES, config, generator))
    assert not any(name.startswith("predictor") for name in shared)
    reference = network(shared)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.5)
    state = OBJECTIVE.begin(shared, {}, 6, config, generator)
    descend = sgd(state, lr=0.05, momentum=0.5)
    for _ in range(4):
        views = torch.randn(6, 2, GENES, generator=generator, dtype=torch.float64)
        loss = OBJECTIVE.step(state, views, descend, config)

        z_1, z_2 = (reference.project(view) for view in views.unbind(1))
        expected = _slow_nt_xent(z_1, z_2, temperature)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()

        torch.testing.assert_close(loss, expected.detach())
        assert not loss.requires_grad

    for name, tensor in reference.as_weights().items():
        torch.testing.assert_close(state.shared[name], tensor, msg=name)
    assert state.private == {}


def test_views_of_a_cell_draw_together(generator, sgd):
    config = MethodOptions()
    cells = torch.randn(32, GENES, generator=generator)
    state = OBJECTIVE.begin(OBJECTIVE.init(GENES, config, generator), {}, 32, config, generator)
    descend = sgd(state, lr=0.1)
    losses = []
    for _ in range(60):
        views = cells[:, None] + 0.1 * torch.randn(32, 2, GENES, generator=generator)
        losses.append(OBJECTIVE.step(state, views, descend, config).item())

    # From better than guessing among 63 candidates to nearly always right.
    assert losses[0] < math.log(63)
    assert max(losses[-5:]) < 0.25 * losses[0]
