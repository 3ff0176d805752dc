import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsc.rng import random_bits
from fedsc.ssl.views import device_views, masked_view


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 2**63 - 1), st.floats(0, 0.99))
def test_a_value_is_dropped_or_scaled_and_the_cell_stays_as_it_was(seed, rate):
    x = torch.randn(7, 11, generator=_generator(1))
    before = x.clone()
    view = masked_view(x, rate, random_bits(seed))

    kept = view != 0
    # The kept share is 1 − rate to the nearest 1 / 65536.
    torch.testing.assert_close(
        view[kept], (x / (1 - rate))[kept], rtol=2.0**-16 / (1 - rate), atol=0
    )
    assert view.dtype == torch.float32
    assert torch.equal(x, before)


def test_rate_zero_is_the_identity():
    x = torch.randn(20, 30, generator=_generator(1))
    assert torch.equal(masked_view(x, 0.0, random_bits(2)), x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_expectation_is_the_cell_and_drops_are_independent(rate):
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]]).expand(50_000, 4)
    view = masked_view(x, rate, random_bits(3))

    # The mean of n draws of x·Bernoulli(1 − r)/(1 − r) has deviation |x|·√(r/(1 − r)/n).
    deviation = x[0].abs() * (rate / (1 - rate) / len(x)) ** 0.5
    assert ((view.mean(dim=0) - x[0]).abs() < 5 * deviation).all()
    kept = (view != 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / len(x) ** 0.5


def test_the_bits_decide_alone():
    x = torch.randn(5, 40, generator=_generator(1))
    bits = random_bits(7)
    first, second = masked_view(x, 0.9, bits), masked_view(x, 0.9, bits)
    torch.manual_seed(123)  # the global generator has no say
    bits = random_bits(7)

    assert torch.equal(masked_view(x, 0.9, bits), first)
    assert torch.equal(masked_view(x, 0.9, bits), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("rate", [0.0, 0.75])
def test_views_drawn_on_a_device_are_two_of_the_kind(rate):
    x = torch.randn(3, 50, 100, generator=_generator(1))
    views = device_views(x, rate, _generator(2))
    for view in views:
        kept = view != 0
        assert abs(kept.double().mean() - (1 - rate)) < 0.02
        torch.testing.assert_close(view[kept], (x / (1 - rate))[kept])
    assert torch.equal(*views) == (rate == 0)
    for view, again in zip(views, device_views(x, rate, _generator(2)), strict=True):
        assert torch.equal(view, again)
