import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsc.rng import random_bits
from fedsc.ssl.views import device_views, masked_views


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 2**63 - 1), st.floats(0, 0.99), st.integers(1, 3))
def test_a_value_is_dropped_or_scaled_and_the_cell_stays_as_it_was(seed, rate, n):
    x = torch.randn(7, 11, generator=_generator(1))
    before = x.clone()
    views = masked_views(x, rate, random_bits(seed), n)

    kept = views != 0
    # The kept share is 1 − rate to the nearest 1 / 65536.
    of_x = (x / (1 - rate))[:, None].expand(7, n, 11)
    torch.testing.assert_close(views[kept], of_x[kept], rtol=2.0**-16 / (1 - rate), atol=0)
    assert views.dtype == torch.float32
    assert torch.equal(x, before)


def test_rate_zero_is_the_identity():
    x = torch.randn(20, 30, generator=_generator(1))
    for view in masked_views(x, 0.0, random_bits(2)).unbind(1):
        assert torch.equal(view, x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_expectation_is_the_cell_and_drops_are_independent(rate):
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]]).expand(50_000, 4)
    views = masked_views(x, rate, random_bits(3)).flatten(1)

    # The mean of n draws of x·Bernoulli(1 − r)/(1 − r) has deviation |x|·√(r/(1 − r)/n).
    deviation = x[0].abs().repeat(2) * (rate / (1 - rate) / len(x)) ** 0.5
    assert ((views.mean(dim=0) - x[0].repeat(2)).abs() < 5 * deviation).all()
    kept = (views != 0).double()  # of the other view too
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert correlation.abs().max() < 5 / len(x) ** 0.5


@pytest.mark.parametrize("genes", [40, 41])  # four values share a word of bits
def test_the_bits_decide_alone_and_in_order(genes):
    x = torch.randn(5, genes, generator=_generator(1))
    views = masked_views(x, 0.9, random_bits(7))
    torch.manual_seed(123)  # the global generator has no say
    bits = random_bits(7)

    assert torch.equal(masked_views(x, 0.9, bits, 1)[:, 0], views[:, 0])
    assert torch.equal(masked_views(x, 0.9, bits, 1)[:, 0], views[:, 1])
    assert not torch.equal(views[:, 0], views[:, 1])


@pytest.mark.parametrize("rate", [0.0, 0.75])
def test_views_drawn_on_a_device_are_two_of_the_kind(rate):
    x = torch.randn(3, 50, 100, generator=_generator(1))
    views = device_views(x, rate, _generator(2))
    for view in views.unbind(-2):
        kept = view != 0
        assert abs(kept.double().mean() - (1 - rate)) < 0.02
        torch.testing.assert_close(view[kept], (x / (1 - rate))[kept])
    assert torch.equal(views[..., 0, :], views[..., 1, :]) == (rate == 0)
    assert torch.equal(views, device_views(x, rate, _generator(2)))
