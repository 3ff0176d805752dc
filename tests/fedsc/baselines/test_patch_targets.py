import pytest
import torch

from fedsc.baselines.patch_targets import features_of, patch_features, patch_teacher
from fedsc.models.encoder import embed
from fedsc.models.mlp import init_mlp
from fedsc.models.patches import matrix_layout, patches_of, sequence_layout

GENES = 70


def teacher(norm):
    """An encoder whose batch norm has seen data: nothing is at its start value."""
    generator = torch.Generator().manual_seed(0)
    weights = init_mlp("encoder", (GENES, 12, 9, 60), norm, generator)
    for name, weight in weights.items():
        weight += 0.3 * torch.rand(weight.shape, generator=generator)
        if name.endswith("running_var"):
            weight *= 3.0
    return weights


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("layout", [matrix_layout(GENES, 12), sequence_layout(GENES)])
def test_patch_features_equal_the_encoder_on_cells_with_one_patch_left(layout, norm):
    encoder, x = teacher(norm), torch.randn(4, GENES, generator=torch.Generator().manual_seed(1))
    found = features_of("patch", encoder, layout)(x, patches_of(x, layout))
    assert found.shape == (4, layout.n_patches, 60)
    for i in range(layout.n_patches):
        alone = torch.zeros_like(x)
        genes = layout.genes[i][layout.genes[i] < GENES]
        alone[:, genes] = x[:, genes] / 0.1  # as contrastive-sc's dropout of 0.9 scales
        torch.testing.assert_close(found[:, i], embed(encoder, alone), rtol=1e-4, atol=1e-5)


def test_cell_target_is_the_encoder_on_the_whole_cell():
    encoder, layout = teacher("batch"), matrix_layout(GENES, 12)
    x = torch.randn(4, GENES)
    found = features_of("cell", encoder, layout)(x, patches_of(x, layout))
    assert found.shape == (4, layout.n_patches, 60)
    assert all(torch.equal(found[:, i], embed(encoder, x)) for i in range(layout.n_patches))


def test_expression_target_is_the_patch_and_needs_no_encoder():
    layout, x = matrix_layout(GENES, 12), torch.randn(4, GENES)
    patches = patches_of(x, layout)
    assert features_of("expression", {}, layout)(x, patches) is patches


def test_frozen_encoder_gets_no_gradient_and_stays_as_it_is():
    encoder = {name: weight.requires_grad_(True) for name, weight in teacher("batch").items()}
    before = {name: weight.detach().clone() for name, weight in encoder.items()}
    layout = matrix_layout(GENES, 12)
    x = torch.randn(4, GENES, requires_grad=True)
    for target in ("patch", "cell"):
        assert not features_of(target, encoder, layout)(x, patches_of(x, layout)).requires_grad
    prepared = patch_teacher(encoder, layout, 0.1)
    assert not any(
        w.requires_grad for w in (prepared.first, prepared.bias, *prepared.rest.values())
    )
    assert not patch_features(prepared, patches_of(x, layout)).requires_grad
    assert all(torch.equal(encoder[name], before[name]) for name in encoder)
