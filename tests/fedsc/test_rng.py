import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsc.rng import derive_seed, numpy_generator, random_bits, torch_generator


def test_seed_is_fixed_for_ever():
    # A change here changes every published number.
    assert derive_seed(0, "train", "lab-1", 7) == 3806165880519269830


@given(st.integers(0, 2**32), st.lists(st.text(alphabet="ab0", max_size=3), max_size=3))
def test_purposes_do_not_run_into_each_other(seed, purpose):
    assert 0 <= derive_seed(seed, *purpose) < 2**63
    assert derive_seed(seed, *purpose) != derive_seed(seed, *purpose, "")
    assert derive_seed(seed, "ab", "c") != derive_seed(seed, "a", "bc")


def test_generators_repeat_and_ignore_global_state():
    torch.manual_seed(1)
    first = torch.rand(3, generator=torch_generator(5, "masks", 2))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(3, generator=torch_generator(5, "masks", 2)))
    assert numpy_generator(5, "x").random() == numpy_generator(5, "x").random()
    assert numpy_generator(5, "x").random() != numpy_generator(6, "x").random()


def test_random_bits_are_fixed_for_ever():
    # Masks are made of them: a change here changes every published number.
    assert random_bits(0, "masks", "lab-1", 7).random_raw(2).tolist() == [
        7416218525456639917,
        5091013114001415470,
    ]
    assert random_bits(0, "masks").random_raw() != random_bits(1, "masks").random_raw()
