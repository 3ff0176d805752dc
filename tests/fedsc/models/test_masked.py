import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedsc.models.masked import (
    SIZES,
    Shape,
    attention,
    draw_masks,
    embed,
    encode,
    feature_loss,
    init_masked,
    n_visible,
    predict,
    step_flops,
)
from fedsc.models.patches import matrix_layout, patches_of, sequence_layout, sine_cosine
from fedsc.models.transformer import Stack

SHAPE = Shape(Stack(2, 2, 16), Stack(2, 2, 8), 6)
LAYOUT = matrix_layout(144, 12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(shape=SHAPE):
    return init_masked(shape, generator())


@given(st.integers(2, 300), st.floats(0.01, 0.99))
def test_masks_split_the_patches(n_patches, ratio):
    visible, hidden = draw_masks(3, n_patches, ratio, generator())
    together = torch.cat([visible, hidden], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(n_patches).expand(3, -1))
    assert visible.shape[1] == n_visible(n_patches, ratio) >= 1
    assert hidden.shape[1] >= 1


def test_masks_hide_three_quarters_of_each_cell_on_its_own():
    visible, hidden = draw_masks(500, 256, 0.75, generator())
    assert visible.shape == (500, 64)
    assert hidden.shape == (500, 192)
    assert len({tuple(row.tolist()) for row in visible}) == 500
    often = torch.bincount(visible.flatten(), minlength=256) / 500
    assert often.min() > 0.15
    assert often.max() < 0.35


def test_patch_embedding_is_the_convolution_of_stride_four():
    weights, x = drawn(), torch.randn(3, 144, generator=generator())
    kernel = weights["patch.weight"].view(16, 1, 4, 4)
    convolved = torch.nn.functional.conv2d(
        x.view(3, 1, 12, 12), kernel, weights["patch.bias"], stride=4
    )
    linear = torch.nn.functional.linear(
        patches_of(x, LAYOUT), weights["patch.weight"], weights["patch.bias"]
    )
    torch.testing.assert_close(linear, convolved.flatten(2).transpose(1, 2))


def test_hidden_patches_cannot_reach_the_encoder():
    weights = drawn()
    patches = torch.randn(4, 9, 16, generator=generator(), requires_grad=True)
    visible, hidden = draw_masks(4, 9, 0.75, generator())
    encoded = encode(weights, patches, LAYOUT, SHAPE, visible)
    assert encoded.shape == (4, 1 + 2, 16)
    predict(weights, encoded, LAYOUT, SHAPE, visible, hidden).square().sum().backward()
    for cell in range(4):
        assert (patches.grad[cell, hidden[cell]] == 0).all()
        assert (patches.grad[cell, visible[cell]].abs().sum(dim=1) > 0).all()
    # With a NaN in every hidden patch the result is still the same bits.
    spoilt = patches.detach().clone()
    for cell in range(4):
        spoilt[cell, hidden[cell]] = torch.nan
    assert torch.equal(encode(weights, spoilt, LAYOUT, SHAPE, visible), encoded)


def test_order_of_visible_patches_does_not_matter():
    weights, patches = drawn(), torch.randn(2, 9, 16, generator=generator())
    visible = torch.tensor([[0, 3, 7], [8, 2, 1]])
    hidden = torch.tensor([[1, 2, 4, 5, 6, 8], [0, 3, 4, 5, 6, 7]])

    def whole(order):
        encoded = encode(weights, patches, LAYOUT, SHAPE, visible[:, order])
        return predict(weights, encoded, LAYOUT, SHAPE, visible[:, order], hidden)

    torch.testing.assert_close(whole([0, 1, 2]), whole([2, 0, 1]), rtol=1e-4, atol=1e-5)


def test_prediction_knows_where_a_patch_is():
    weights, patches = drawn(), torch.randn(1, 9, 16, generator=generator())
    visible, hidden = torch.tensor([[0, 1]]), torch.tensor([[2, 3, 4, 5, 6, 7, 8]])
    encoded = encode(weights, patches, LAYOUT, SHAPE, visible)
    predicted = predict(weights, encoded, LAYOUT, SHAPE, visible, hidden)
    assert predicted.shape == (1, 7, 6)
    assert len(predicted[0].unique(dim=0)) == 7
    turned = predict(weights, encoded, LAYOUT, SHAPE, visible, hidden.flip(1))
    torch.testing.assert_close(turned, predicted.flip(1), rtol=1e-4, atol=1e-5)


def with_padding_masked_in_attention(weights, matrix, real):
    """Encode all patches of padded matrices, padding hidden by an attention mask alone."""
    import torch.nn.functional as F

    from fedsc.models.patches import cut
    from fedsc.models.transformer import _heads, _norm, linear

    places = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    x = linear(weights, cut(matrix), "patch") + sine_cosine(places, 16)
    x = torch.cat([weights["class_token"].expand(len(x), 1, -1), x], dim=1)
    allowed = torch.cat([torch.tensor([True]), real])
    for i in range(SHAPE.encoder.depth):
        block = f"encoder.{i}"
        q, k, v = _heads(weights, _norm(weights, x, f"{block}.before_attention"), block, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.expand(10, 10))
        x = x + linear(weights, y.transpose(1, 2).flatten(2), f"{block}.mix")
        y = _norm(weights, x, f"{block}.before_mlp")
        x = x + linear(weights, F.gelu(linear(weights, y, f"{block}.up")), f"{block}.down")
    return _norm(weights, x, "encoder.end")[:, 1:][:, real].mean(dim=1)


def test_leaving_padding_out_is_masking_it_in_attention():
    weights, x = drawn(), torch.randn(3, 60, generator=generator())
    layout = matrix_layout(60, 12)  # five rows of twelve: the third row of patches is padding
    matrix = torch.cat([x, torch.zeros(3, 84)], dim=1).view(3, 12, 12)
    matrix[:, 8:] = 1e3  # whatever stands in empty patches
    found = embed(weights, patches_of(x, layout), layout, SHAPE)
    assert layout.n_patches == 6
    slow = with_padding_masked_in_attention(weights, matrix, torch.arange(9) < 6)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)


def test_pad_genes_change_nothing():
    """Neither the kernel at a padded place nor what a decoder says of it can move anything."""
    layout = sequence_layout(40)  # the third patch is half padding
    weights = {n: w.requires_grad_(True) for n, w in init_masked(
        Shape(SHAPE.encoder, SHAPE.decoder, 16), generator()).items()}  # fmt: skip
    patches = patches_of(torch.randn(5, 40, generator=generator()), layout)
    encode(weights, patches, layout, SHAPE, torch.full((5, 1), 2)).sum().backward()
    assert (weights["patch.weight"].grad[:, 8:] == 0).all()

    predicted = torch.randn(5, 2, 16, generator=generator())
    hidden = torch.tensor([[1, 2]]).expand(5, -1)
    target, filled = patches[:, 1:], layout.filled[hidden]
    loss = feature_loss(predicted, target, filled)
    predicted[:, 1, 8:] = 1e6
    assert torch.equal(feature_loss(predicted, target, filled), loss)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_loss_equals_a_slow_loop(cells, hidden, features, seed):
    p = torch.randn(cells, hidden, features, generator=generator(seed))
    t = torch.randn(cells, hidden, features, generator=generator(seed + 1))
    total = 0.0
    for cell in range(cells):
        for patch in range(hidden):
            for i in range(features):
                total += float(p[cell, patch, i] - t[cell, patch, i]) ** 2
    assert float(feature_loss(p, t)) == pytest.approx(total / (cells * hidden), rel=1e-5)


def test_embedding_is_the_mean_of_patch_tokens_without_gradient():
    weights = {name: weight.requires_grad_(True) for name, weight in drawn().items()}
    patches = torch.randn(3, 9, 16, generator=generator())
    everything = torch.arange(9).expand(3, -1)
    found = embed(weights, patches, LAYOUT, SHAPE)
    tokens = encode(weights, patches, LAYOUT, SHAPE, everything)
    torch.testing.assert_close(found, tokens[:, 1:].mean(dim=1).detach())
    assert not found.requires_grad


def test_attention_covers_class_token_and_patches():
    patches = torch.randn(3, 9, 16, generator=generator())
    found = attention(drawn(), patches, LAYOUT, SHAPE)
    assert found.shape == (3, 10, 10)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(3, 10))


def test_same_generator_same_weights():
    first, again, other = drawn(), drawn(), init_masked(SHAPE, generator(1))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch.weight"], other["patch.weight"])


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
def test_flops_equal_those_torch_counts(ratio):
    weights = {name: weight.requires_grad_(True) for name, weight in drawn().items()}
    patches, counter = torch.randn(1, 9, 16), FlopCounterMode(display=False)
    visible, hidden = draw_masks(1, 9, ratio, generator())
    with sdpa_kernel(SDPBackend.MATH), counter:  # the fused kernel is not counted on a CPU
        encoded = encode(weights, patches, LAYOUT, SHAPE, visible)
        predicted = predict(weights, encoded, LAYOUT, SHAPE, visible, hidden)
        feature_loss(predicted, torch.zeros_like(predicted)).backward()
    assert counter.get_total_flops() == step_flops(SHAPE, 9, ratio)


def test_base_costs_what_the_paper_needs():
    encoder, decoder = SIZES["base"]
    flops = step_flops(Shape(encoder, decoder, 60), 256, 0.75)
    assert 4.5e17 < flops * 4271 * 1600 < 6e17
    assert encoder == Stack(12, 12, 768)
    assert decoder == Stack(8, 16, 512)


def test_half_precision_products_change_the_loss_little():
    weights = {name: weight.requires_grad_(True) for name, weight in drawn().items()}
    patches = torch.randn(8, 9, 16, generator=generator())
    visible, hidden = draw_masks(8, 9, 0.75, generator())
    target = torch.randn(8, 7, 6, generator=generator(1))
    found = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            encoded = encode(weights, patches, LAYOUT, SHAPE, visible)
            predicted = predict(weights, encoded, LAYOUT, SHAPE, visible, hidden)
        loss = feature_loss(predicted, target)
        assert predicted.dtype == (torch.bfloat16 if half else torch.float32)
        assert loss.dtype == torch.float32
        loss.backward()
        found.append(float(loss.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert all(weight.grad.dtype == torch.float32 for weight in weights.values())
