"""Other readings: each changes what it says, and nothing else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsc.federated.pull import divergence
from fedsc.models.mlp import mlp
from fedsc.options import MethodOptions
from fedsc.ssl import byol, moco, simclr
from fedsc.ssl.losses import info_nce, nt_xent
from simulations.readings import distance, drop_last, joint_views, symmetric_moco

GENES, CELLS = 12, 40
OPTIONS = MethodOptions()


def views(n=CELLS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, GENES, generator=generator)


def begun(objective, options=OPTIONS, cells=CELLS, seed=1):
    shared = objective.init(GENES, options, torch.Generator().manual_seed(seed))
    begin_from = torch.Generator().manual_seed(seed)
    return objective.begin(shared, {}, cells, options, begin_from)


def descending(tensors, losses=None):
    optimizer = torch.optim.SGD(tensors, lr=0.1)

    def descend(loss):
        if losses is not None:
            losses.append(loss.detach().clone())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return descend


def stepped(objective, options=OPTIONS, steps=3, n=CELLS):
    state = begun(objective, options, n)
    descend = descending(state.trainable())
    for i in range(steps):
        objective.step(state, views(n, seed=i), descend, options)
    return state


def numpy_of(weights):
    return {name: tensor.detach().numpy() for name, tensor in weights.items()}


def norm(parameters):
    return float(np.sqrt(sum(np.square(p, dtype=np.float64).sum() for p in parameters)))


@pytest.mark.parametrize(
    ("objective", "counted"),
    [
        (byol.OBJECTIVE, ("encoder.", "projector.")),
        (distance.ENCODER, ("encoder.",)),
        (distance.WHOLE, ("encoder.", "projector.", "predictor.")),
    ],
)
def test_d_is_over_the_networks_it_says_and_training_is_byols(objective, counted):
    before, after = (
        numpy_of(begun(byol.OBJECTIVE).shared),
        numpy_of(stepped(byol.OBJECTIVE).shared),
    )
    differences = [
        after[name] - before[name]
        for name in after
        if name.startswith(counted) and "running" not in name
    ]
    state = stepped(objective)
    found = divergence(numpy_of(begun(objective).shared), numpy_of(state.shared))
    assert found == pytest.approx(norm(differences), rel=1e-6)
    assert sorted(t.sum().item() for t in state.shared.values()) == sorted(
        float(torch.tensor(a).sum()) for a in after.values()
    )
    target = stepped(byol.OBJECTIVE).private
    assert all(torch.equal(state.private[name], target[name]) for name in target)


def test_cells_that_fill_no_batch_move_nothing():
    state = begun(drop_last.OBJECTIVE, cells=300)
    before = {name: tensor.detach().clone() for name, tensor in state.shared.items()}
    descend = descending(state.trainable())
    loss = drop_last.OBJECTIVE.step(state, views(drop_last.BATCH - 1), descend, OPTIONS)
    assert loss == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in state.shared.items())


def test_a_whole_batch_is_byols_step_and_a_cell_beyond_it_does_not_count():
    batch = drop_last.BATCH
    ours, theirs = begun(drop_last.OBJECTIVE), begun(byol.OBJECTIVE)
    drawn = views(batch + 1)
    found = drop_last.OBJECTIVE.step(ours, drawn, descending(ours.trainable()), OPTIONS)
    wanted = byol.step(theirs, drawn[:batch], descending(theirs.trainable()), OPTIONS)
    assert torch.equal(found, wanted)
    assert all(torch.equal(ours.shared[name], theirs.shared[name]) for name in theirs.shared)


def test_joint_views_are_normalised_as_one_batch():
    state = begun(joint_views.OBJECTIVE)
    drawn = views()
    copy = {name: tensor.detach().clone() for name, tensor in state.shared.items()}
    together = mlp(copy, torch.cat(drawn.unbind(1)), "encoder", "projector", training=True)
    losses = []
    joint_views.OBJECTIVE.step(state, drawn, descending(state.trainable(), losses), OPTIONS)
    wanted = nt_xent(together[:CELLS], together[CELLS:], simclr.TEMPERATURE)
    torch.testing.assert_close(losses[0], wanted)
    apart = []
    other = begun(simclr.OBJECTIVE)
    simclr.step(other, drawn, descending(other.trainable(), apart), OPTIONS)
    assert not torch.isclose(losses[0], apart[0])


@pytest.mark.parametrize(
    ("objective", "tau"), [(symmetric_moco.V1, 0.07), (symmetric_moco.V2, 0.2)]
)
def test_symmetric_moco_is_the_sum_of_both_directions_and_queues_all_keys(objective, tau):
    state = begun(objective, cells=3 * CELLS)
    losses = []
    descend = descending(state.trainable(), losses)
    queue = torch.empty(0, 128)  # the newest first
    for i in range(3):
        pair = views(seed=i)
        copies = [
            {name: tensor.detach().clone() for name, tensor in part.items()}
            for part in (state.shared, state.private)
        ]
        queries = [mlp(copies[0], v, "encoder", "projector", training=True) for v in pair.unbind(1)]
        networks = "key.encoder", "key.projector"
        keys = [
            F.normalize(mlp(copies[1], v, *networks, training=True), dim=1) for v in pair.unbind(1)
        ]
        wanted = info_nce(queries[0], keys[1], queue, tau) + info_nce(
            queries[1], keys[0], queue, tau
        )
        objective.step(state, pair, descend, OPTIONS)
        torch.testing.assert_close(losses[i], wanted)
        new = torch.stack(keys, dim=1).flatten(0, 1)
        queue = torch.cat((new, queue))[: 3 * CELLS]
        filled = int(state.private["queue.filled"])
        torch.testing.assert_close(state.private["queue"][:filled], queue)
    assert filled == 3 * CELLS


def test_a_symmetric_queue_survives_the_round():
    state = stepped(symmetric_moco.V1)
    shared = {name: tensor.detach() for name, tensor in state.shared.items()}
    again = symmetric_moco.V1.begin(shared, state.private, CELLS, OPTIONS, torch.Generator())
    assert torch.equal(again.private["queue"], state.private["queue"])
    assert set(again.private) == set(begun(moco.V1).private)


def test_a_target_with_gradient_outside_the_optimiser_changes_nothing():
    """So "no stop-gradient", read that way, is BYOL itself."""
    options = MethodOptions(stop_gradient=False)
    state = begun(byol.OBJECTIVE, options)
    assert any(tensor.requires_grad for tensor in state.private.values())
    outside = [w for w in state.shared.values() if w.requires_grad]
    descend = descending(outside)
    for i in range(3):
        byol.step(state, views(seed=i), descend, options)
    wanted = stepped(byol.OBJECTIVE)
    for name, tensor in wanted.shared.items():
        assert torch.equal(state.shared[name], tensor), name


def test_a_momentum_of_one_never_moves_the_target():
    options = MethodOptions(target_momentum=1.0)
    state, first = stepped(byol.OBJECTIVE, options), begun(byol.OBJECTIVE, options)
    for name, tensor in first.private.items():
        if "running" not in name:
            assert torch.equal(state.private[name], tensor), name
    assert not torch.equal(state.shared["encoder.0.weight"], first.shared["encoder.0.weight"])
