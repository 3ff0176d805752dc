import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from fedsc.baselines.zinb import (
    LEAST_DISPERSION,
    MOST_DISPERSION,
    mean_and_dispersion,
    zinb_log_likelihood,
    zinb_nll,
)


def grid():
    counts = [0.0, 1.0, 2.0, 7.0, 150.0, 20_000.0]
    means = [1e-5, 1e-2, 1.0, 30.0, 1e4]
    dispersions = [1e-4, 1e-2, 1.0, 29.0, 31.0, 1e4]
    logits = [-40.0, -3.0, 0.0, 2.0, 40.0]
    return np.array(list(itertools.product(counts, means, dispersions, logits)))


def test_likelihood_is_scipys_negative_binomial_inflated():
    x, mean, theta, logit = grid().T
    nb = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    absent, present = np.log(expit(logit)), np.log(expit(-logit))
    expected = np.where(x == 0, np.logaddexp(absent, present + nb), present + nb)
    found = zinb_log_likelihood(
        *(torch.tensor(v, dtype=torch.float32)[None] for v in (x, np.log(mean), theta, logit))
    )[0]
    usual = x < 1e4
    np.testing.assert_allclose(found.numpy()[usual], expected[usual], rtol=2e-5, atol=2e-5)
    # Of a count of 20,000 float32 keeps a hundredth: log Γ of it is 178,000.
    np.testing.assert_allclose(found.numpy()[~usual], expected[~usual], rtol=1e-3, atol=0.02)


def test_probabilities_sum_to_one():
    x = torch.arange(4000.0)[None]
    like = zinb_log_likelihood(
        x, torch.full_like(x, math.log(20.0)), torch.full_like(x, 2.0), torch.zeros_like(x)
    )
    assert float(like.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("logit", [-1e30, -100.0, 100.0, 1e30])
@pytest.mark.parametrize("theta", [LEAST_DISPERSION, MOST_DISPERSION])
@pytest.mark.parametrize("log_mean", [math.log(1e-5), math.log(1e6)])
def test_loss_and_gradient_stay_finite_at_the_edges(logit, theta, log_mean):
    counts = torch.tensor([[0.0, 1.0, 1e5]])
    parameters = [torch.full((1, 3), v, requires_grad=True) for v in (log_mean, theta, logit)]
    loss = zinb_nll(counts, *parameters, ridge=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in parameters)


def test_no_inflation_is_the_negative_binomial_and_full_inflation_explains_every_zero():
    zeros = torch.zeros(1, 4)
    mean, theta = torch.full((1, 4), math.log(3.0)), torch.full((1, 4), 2.0)
    none = zinb_log_likelihood(zeros, mean, theta, torch.full((1, 4), -1e4))
    full = zinb_log_likelihood(zeros, mean, theta, torch.full((1, 4), 1e4))
    np.testing.assert_allclose(none, 2 * math.log(2 / 5), rtol=1e-6)
    np.testing.assert_allclose(full, 0.0, atol=1e-6)


def test_ridge_is_the_mean_square_of_the_dropout_probability():
    torch.manual_seed(0)
    counts, logit = torch.poisson(torch.ones(5, 4)), torch.randn(5, 4)
    args = (counts, torch.randn(5, 4), torch.rand(5, 4) + 0.1, logit)
    penalty = zinb_nll(*args, ridge=0.5) - zinb_nll(*args)
    assert float(penalty) == pytest.approx(0.5 * float(logit.sigmoid().square().mean()), rel=1e-4)


def test_gradient_is_that_of_differences():
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((3, 4), 1.5)).double()
    parameters = [
        t.double().requires_grad_()
        for t in (torch.randn(3, 4), torch.rand(3, 4) * 40 + 0.5, torch.randn(3, 4))
    ]
    assert torch.autograd.gradcheck(lambda *p: zinb_nll(counts, *p, ridge=1.0), parameters)


def test_decoder_outputs_are_bounded_and_scaled_by_library_size():
    raw = torch.tensor([[-1e9, 0.0, 1e9], [-1e9, 0.0, 1e9]])
    log_mean, dispersion = mean_and_dispersion(raw, raw, torch.tensor([1.0, 2.0]))
    np.testing.assert_allclose(log_mean[0].exp(), [1e-5, 1.0, 1e6], rtol=1e-4)
    np.testing.assert_allclose((log_mean[1] - log_mean[0]).exp(), 2.0, rtol=1e-5)
    np.testing.assert_allclose(dispersion[0], [1e-4, math.log(2), 1e4], rtol=1e-5)
