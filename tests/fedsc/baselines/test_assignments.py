import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.baselines.assignments import (
    kl_divergence,
    pair_self_training,
    pair_similarities,
    soft_kmeans,
    soft_kmeans_weights,
    squared_distances,
    student_t,
    target_distribution,
)


@pytest.fixture
def z():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def centres():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def distance(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def test_student_t_and_its_target_against_loops(z, centres):
    q = np.array([[1 / (1 + distance(a, c)) for c in centres] for a in z])
    q /= q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(student_t(z, centres), q, rtol=1e-5)
    p = np.empty_like(q)
    for i in range(7):
        weights = [q[i, j] ** 2 / sum(q[:, j]) for j in range(4)]
        p[i] = [w / sum(weights) for w in weights]
    np.testing.assert_allclose(target_distribution(torch.tensor(q)), p, rtol=1e-10)


def test_target_has_no_gradient(z, centres):
    assert not target_distribution(student_t(z, centres.requires_grad_())).requires_grad


def test_kl_against_a_loop(z, centres):
    q = student_t(z, centres).double()
    p = target_distribution(q)
    expected = [
        sum(float(p[i, j]) * math.log(float(p[i, j] / q[i, j])) for j in range(4)) for i in range(7)
    ]
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-8)


def test_kl_of_zero_probabilities_is_finite():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    q = torch.tensor([[0.5, 0.5], [1.0, 0.0]], requires_grad=True)
    kl = kl_divergence(p, q)
    kl.sum().backward()
    assert float(kl[0].detach()) == pytest.approx(math.log(2))
    assert torch.isfinite(kl).all()
    assert torch.isfinite(q.grad).all()


def test_soft_kmeans_weights_against_a_loop(z, centres):
    weights, loss = np.empty((7, 4)), []
    for i, a in enumerate(z):
        d = [distance(a, c) for c in centres]
        soft = [math.exp(-v) / sum(math.exp(-w) for w in d) for v in d]
        squared = [v**2 for v in soft]
        weights[i] = [v / sum(squared) for v in squared]
        loss.append(sum(w * v for w, v in zip(weights[i], d, strict=True)))
    distances = squared_distances(z, centres)
    np.testing.assert_allclose(soft_kmeans_weights(distances), weights, rtol=1e-4)
    assert float(soft_kmeans(z, centres)) == pytest.approx(np.mean(loss), rel=1e-5)


def test_soft_kmeans_of_distant_centres_does_not_overflow():
    z = torch.tensor([[0.0, 0.0]])
    centres = torch.tensor([[1e3, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = soft_kmeans(z, centres)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1e6)
    assert torch.isfinite(centres.grad).all()


def test_pair_similarities_and_self_training_against_loops(z):
    p = np.zeros((7, 7))
    for i in range(7):
        row = [0 if i == j else 1 / (1 + distance(z[i], z[j])) for j in range(7)]
        p[i] = [v / sum(row) for v in row]
    np.testing.assert_allclose(pair_similarities(z), p, rtol=1e-5, atol=1e-8)
    expected = 0.0
    for i in range(7):
        q = [v**2 / sum(w**2 for w in p[i]) for v in p[i]]
        expected += sum(q[j] * math.log(q[j] / p[i, j]) for j in range(7) if i != j)
    assert float(pair_self_training(z)) == pytest.approx(expected, rel=1e-4)


def test_a_single_cell_has_no_pairs():
    z = torch.ones(1, 3, requires_grad=True)
    pair_self_training(z).backward()
    assert not z.grad.any()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 12), k=st.integers(1, 6), scale=st.floats(1e-3, 1e3))
def test_rows_are_distributions(n, k, scale):
    generator = torch.Generator().manual_seed(n * 10 + k)
    z = scale * torch.randn(n, 2, generator=generator)
    centres = scale * torch.randn(k, 2, generator=generator)
    q = student_t(z, centres)
    for rows in (q, target_distribution(q), soft_kmeans_weights(squared_distances(z, centres))):
        np.testing.assert_allclose(rows.sum(dim=1), 1.0, rtol=1e-5)
        assert (rows >= 0).all()
    assert float(pair_self_training(z)) >= -1e-4


def test_self_training_holds_its_target_fixed(z):
    z.requires_grad_()
    pair_self_training(z).backward()
    p = pair_similarities(z.detach())
    target = p.square() / p.square().sum(dim=1, keepdim=True)
    free = z.detach().clone().requires_grad_()
    kl_divergence(target, pair_similarities(free)).sum().backward()
    np.testing.assert_allclose(z.grad, free.grad, rtol=1e-5, atol=1e-7)
