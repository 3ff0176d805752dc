import pytest
import torch

from fedsc.models.encoder import embed, init_online, project
from fedsc.models.mlp import mlp

GENES = 15


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def weights():
    return init_online(GENES, "batch", _generator())


@pytest.fixture
def x():
    return torch.randn(20, GENES, generator=_generator(1))


def test_widths_are_the_papers(weights):
    shapes = [tuple(w.shape) for n, w in weights.items() if w.dim() == 2]
    assert shapes == [(200, GENES), (40, 200), (60, 40), (128, 60)]
    assert sum(".norm." in name for name in weights) == 2 * 4


def test_a_deeper_head_leaves_the_encoder_as_it_is(weights):
    deeper = init_online(GENES, "batch", _generator(), (60, 60, 128))
    assert set(deeper) - set(weights) == {"projector.1.weight", "projector.1.bias"}
    assert deeper["projector.0.weight"].shape == (60, 60)
    assert all(torch.equal(deeper[n], weights[n]) for n in weights if n.startswith("encoder."))


def test_project_is_encoder_then_projector_on_batch_statistics(weights, x):
    copy = {f"target.{name}": tensor.clone() for name, tensor in weights.items()}
    z = project(weights, x)

    assert z.shape == (20, 128)
    assert torch.equal(project(copy, x, "target."), z)
    hidden = mlp(copy, x, "target.encoder", training=True)
    expected = hidden @ copy["target.projector.0.weight"].T
    torch.testing.assert_close(z, expected)  # the bias is still zero
    assert weights["encoder.0.norm.running_mean"].any()


def test_embedding_is_of_unit_length_without_gradient_or_side_effect(weights, x):
    project(weights, x)  # running statistics worth having
    for name, tensor in weights.items():
        tensor.requires_grad_("running" not in name)
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    z = embed(weights, x)

    assert z.shape == (20, 60)
    assert z.dtype == torch.float32
    assert not z.requires_grad
    torch.testing.assert_close(z.norm(dim=1), torch.ones(20))
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())
    raw = embed(weights, x, unit=False)
    torch.testing.assert_close(raw / raw.norm(dim=1, keepdim=True), z)


def test_a_cells_embedding_does_not_depend_on_the_others(weights, x):
    project(weights, x)
    one_by_one = torch.cat([embed(weights, cell[None]) for cell in x])
    torch.testing.assert_close(embed(weights, x), one_by_one)


def test_a_dead_encoder_embeds_to_zero_not_nan(weights, x):
    dead = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    assert torch.equal(embed(dead, x), torch.zeros(20, 60))
