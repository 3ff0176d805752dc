import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fedsc.ssl.losses import cosine_distance, info_nce, mean_cosine, negative_cosine, nt_xent

SIZES = [(1, 3), (2, 2), (3, 5), (8, 4), (17, 6)]
TEMPERATURES = [0.07, 0.2, 1.0, 5.0]


def _draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _cosine(a, b):
    a, b = a.tolist(), b.tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def _slow_nt_xent(z_1, z_2, temperature):
    z, n = [*z_1, *z_2], len(z_1)
    total = 0.0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        numerator = math.exp(_cosine(z[i], z[partner]) / temperature)
        denominator = sum(
            math.exp(_cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i
        )
        total -= math.log(numerator / denominator)
    return total / (2 * n)


def _slow_info_nce(q, k, negatives, temperature):
    total = 0.0
    for i in range(len(q)):
        numerator = math.exp(_cosine(q[i], k[i]) / temperature)
        denominator = numerator + sum(
            math.exp(_cosine(q[i], negative) / temperature) for negative in negatives
        )
        total -= math.log(numerator / denominator)
    return total / len(q)


@pytest.mark.parametrize(
    ("t", "distance"),
    [((3.0, 0.0), 0.0), ((0.0, 0.5), 2.0), ((-7.0, 0.0), 4.0), ((1.0, math.sqrt(3)), 1.0)],
    ids=["parallel", "orthogonal", "opposite", "60 degrees"],
)
def test_cosine_losses_by_hand(t, distance):
    p, t = torch.tensor([[2.0, 0.0]]), torch.tensor([t])

    assert cosine_distance(p, t).item() == pytest.approx(distance, abs=1e-6)
    assert negative_cosine(p, t).item() == pytest.approx(distance / 2 - 1, abs=1e-6)


def test_cosine_distance_is_the_mean_over_cells():
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])

    assert cosine_distance(p, t).item() == pytest.approx((0 + 2 + 4) / 3)


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_cosine_losses_match_a_loop(n, width):
    p, t = _draw(1, n, width), _draw(2, n, width)
    cosines = [_cosine(a, b) for a, b in zip(p, t, strict=True)]

    assert cosine_distance(p, t).item() == pytest.approx(sum(2 - 2 * c for c in cosines) / n)
    assert negative_cosine(p, t).item() == pytest.approx(-sum(cosines) / n)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_cosine_distance_ignores_lengths_and_order(seed, a, b):
    p, t = _draw(seed, 4, 3), _draw(seed + 1, 4, 3)
    loss = cosine_distance(p, t)

    assert 0 <= loss <= 4
    torch.testing.assert_close(cosine_distance(a * p, b * t), loss)
    torch.testing.assert_close(cosine_distance(t, p), loss)


def test_cosine_distance_of_a_dead_network_is_finite():
    p = torch.zeros(3, 4, requires_grad=True)
    loss = cosine_distance(p, torch.ones(3, 4))
    loss.backward()

    assert loss.item() == 2.0
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("n", "width"), SIZES)
def test_nt_xent_matches_a_loop(n, width, temperature):
    z_1, z_2 = _draw(1, n, width), _draw(2, n, width)

    expected = _slow_nt_xent(z_1, z_2, temperature)
    assert nt_xent(z_1, z_2, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_nt_xent_by_hand():
    # Two cells, both views equal, the cells orthogonal: every anchor sees its positive at
    # cosine 1 and two negatives at cosine 0.
    z = torch.eye(2, dtype=torch.float64)
    expected = math.log(1 + 2 * math.exp(-1 / 0.5))

    assert nt_xent(z, z, 0.5).item() == pytest.approx(expected)


def test_nt_xent_of_a_collapsed_network_counts_the_candidates():
    z = torch.ones(5, 3, dtype=torch.float64)
    assert nt_xent(z, z, 0.07).item() == pytest.approx(math.log(2 * 5 - 1))


def test_nt_xent_leaves_its_input_alone():
    z_1, z_2 = _draw(1, 4, 3), _draw(2, 4, 3)
    before = z_1.clone(), z_2.clone()
    nt_xent(z_1, z_2, 0.07)

    assert torch.equal(z_1, before[0])
    assert torch.equal(z_2, before[1])


@given(st.integers(0, 2**32), st.integers(2, 9), st.floats(0.05, 5))
def test_nt_xent_ignores_which_view_comes_first_and_the_order_of_cells(seed, n, temperature):
    z_1, z_2 = _draw(seed, n, 4), _draw(seed + 1, n, 4)
    loss = nt_xent(z_1, z_2, temperature)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    torch.testing.assert_close(nt_xent(z_2, z_1, temperature), loss)
    torch.testing.assert_close(nt_xent(z_1[order], z_2[order], temperature), loss)
    torch.testing.assert_close(nt_xent(3 * z_1, 0.2 * z_2, temperature), loss)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("n_negatives", [0, 1, 2, 30])
@pytest.mark.parametrize(("n", "width"), SIZES)
def test_info_nce_matches_a_loop(n, width, n_negatives, temperature):
    q, k = _draw(1, n, width), F.normalize(_draw(2, n, width), dim=1)
    negatives = F.normalize(_draw(3, n_negatives, width), dim=1)

    expected = _slow_info_nce(q, k, negatives, temperature)
    actual = info_nce(q, k, negatives, temperature).item()
    assert actual == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_info_nce_is_a_cross_entropy_with_the_positive_first():
    q, k = _draw(1, 6, 4), F.normalize(_draw(2, 6, 4), dim=1)
    negatives = F.normalize(_draw(3, 9, 4), dim=1)
    unit = F.normalize(q, dim=1)
    logits = torch.cat([(unit * k).sum(1, keepdim=True), unit @ negatives.T], dim=1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64))

    torch.testing.assert_close(info_nce(q, k, negatives, 0.2), expected)


def test_info_nce_without_negatives_moves_nothing():
    q, k = _draw(1, 3, 4).requires_grad_(), F.normalize(_draw(2, 3, 4), dim=1)
    loss = info_nce(q, k, k[:0], 0.07)
    loss.backward()

    assert loss.item() == 0.0
    assert torch.equal(q.grad, torch.zeros_like(q))


@pytest.mark.parametrize("temperature", [0.07, 0.001])
def test_contrastive_losses_do_not_overflow_in_float32(temperature):
    z = F.normalize(_draw(1, 8, 4), dim=1).float()
    q = (-z).requires_grad_()
    # Queries opposite to their keys: the worst loss there is.
    for loss in (info_nce(q, z, z, temperature), nt_xent(q, z, temperature)):
        (gradient,) = torch.autograd.grad(loss, q)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients(temperature):
    z_1, z_2 = _draw(1, 4, 3).requires_grad_(), _draw(2, 4, 3).requires_grad_()
    keys = F.normalize(_draw(3, 4, 3), dim=1)
    negatives = F.normalize(_draw(4, 7, 3), dim=1)

    assert torch.autograd.gradcheck(cosine_distance, (z_1, z_2))
    assert torch.autograd.gradcheck(negative_cosine, (z_1, z_2))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature), (z_1, z_2))
    assert torch.autograd.gradcheck(lambda q: info_nce(q, keys, negatives, temperature), (z_1,))


@given(
    st.integers(1, 6), st.integers(1, 3), st.integers(1, 7), st.integers(0, 2**32), st.booleans()
)
def test_gradients_of_the_mean_cosine_are_those_of_autograd(cells, views, width, seed, both):
    p = _draw(seed, cells, views, width).requires_grad_()
    t = _draw(seed + 1, cells, views, width).requires_grad_(both)
    leaves = [p, t] if both else [p]
    ours, theirs = mean_cosine(p, t), F.cosine_similarity(p, t, dim=-1).mean()

    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    found, expected = (torch.autograd.grad(3 * c, leaves) for c in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        # A gradient grows as a row gets shorter, and its rounding with it.
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 / float(p.detach().abs().max()))


def test_a_row_of_zeros_has_cosine_zero_and_a_finite_gradient():
    p = torch.zeros(2, 3, requires_grad=True)
    cosine = mean_cosine(p, torch.ones(2, 3))
    cosine.backward()
    assert cosine == 0
    assert torch.isfinite(p.grad).all()


def test_a_row_without_direction_has_cosine_0_and_moves_nothing():
    p = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    t = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    mean = mean_cosine(p, t)
    mean.backward()
    assert mean.item() == pytest.approx(0.5)
    assert p.grad[0].tolist() == [0.0, 0.0]
