"""Uploads in half the bytes: rounded to the nearest, and nothing is lost but the last error."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsc.errors import RunError
from fedsc.federated.upload import decode, encode, looks_like, without_error

KINDS = ("float16", "bfloat16")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
BITS = {"float16": (11, -14), "bfloat16": (8, -126)}  # of precision; smallest normal exponent
W, BUFFER = "encoder.0.weight", "encoder.0.norm.running_var"

finite = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=2, max_side=5),
    elements=st.floats(-60_000, 60_000, width=32),
)


def half_unit(kind, x):
    """Give half a unit in the last place of values, float64."""
    bits, smallest = BITS[kind]
    exponent = np.frexp(np.abs(x.astype(np.float64)))[1] - 1
    return 2.0 ** (np.maximum(exponent, smallest) - bits + 1) / 2


def there_and_back(kind, x):
    start = {W: np.zeros_like(x)}
    sent, error = encode(kind, start, {W: x}, {})
    return sent[W], decode(kind, start, sent)[W], error


@pytest.mark.parametrize("kind", KINDS)
@given(x=finite)
def test_a_change_is_rounded_to_the_nearest(kind, x):
    sent, arrived, error = there_and_back(kind, x)
    assert sent.itemsize == 2
    assert arrived.dtype == np.float32
    assert (np.abs(arrived.astype(np.float64) - x) <= half_unit(kind, x)).all()
    np.testing.assert_array_equal(arrived, torch.from_numpy(x).to(DTYPES[kind]).float().numpy())
    (left,) = error.values()
    np.testing.assert_array_equal(left, x - arrived)


@pytest.mark.parametrize("kind", KINDS)
@given(moves=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30))
def test_over_the_rounds_nothing_is_lost_but_the_last_error(kind, moves):
    start, private, meant, arrived = {W: np.float32([1.5])}, {}, 0.0, 0.0
    for move in moves:
        update = {W: start[W] + np.float32(move)}
        sent, private = encode(kind, start, update, private)
        got = decode(kind, start, sent)
        meant += float(update[W][0]) - float(start[W][0])
        arrived += float(got[W][0]) - float(start[W][0])
        start = {W: np.float32([1.5]) if abs(got[W][0]) > 100 else got[W]}
    (left,) = private.values()
    # What is left out is one rounding of one upload, however many rounds there were.
    assert abs(float(left[0])) <= half_unit(kind, np.float64([2 * 8 + 1]))[0]
    assert arrived + float(left[0]) == pytest.approx(meant, abs=1e-6 * len(moves) * 100)


def test_without_feedback_small_steps_would_be_lost_and_with_it_they_are_not():
    start, private = {W: np.zeros(1, np.float32)}, {}
    steps = np.float32([1.0, *[2.0**-10] * 64])  # together with a larger one each
    got = []
    for step in steps:
        sent, private = encode("bfloat16", start, {W: np.float32([1 + step])}, private)
        got.append(float(decode("bfloat16", start, sent)[W][0]))
    assert set(got[1:]) == {1.0, 1.0078125}
    assert sum(got[1:]) == pytest.approx(64 * (1 + 2.0**-10), abs=2.0**-8)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_sent_as_they_are(kind):
    start = {W: np.ones(3, np.float32), BUFFER: np.float32([1.0003, 2])}
    update = {W: start[W] + 0.1, BUFFER: np.float32([1e-9, 3])}
    sent, error = encode(kind, start, update, {})
    np.testing.assert_array_equal(decode(kind, start, sent)[BUFFER], update[BUFFER])
    assert not [name for name in error if BUFFER in name]
    like = looks_like(kind, start)
    assert {n: (a.dtype, a.shape) for n, a in sent.items()} == {
        n: (a.dtype, a.shape) for n, a in like.items()
    }


def test_float32_is_the_update_itself():
    start, update = {W: np.zeros(2, np.float32)}, {W: np.float32([1 / 3, 1e-30])}
    sent, error = encode("float32", start, update, {"target.w": start[W]})
    assert sent is update
    assert error == {}
    assert decode("float32", start, sent) is update
    assert looks_like("float32", start) is start


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float16", 65_520.0),
        ("float16", -1e9),
        ("float16", np.nan),
        ("bfloat16", 3.4e38),
        ("bfloat16", -np.inf),
        ("bfloat16", np.nan),
        ("bfloat16", -np.nan),
    ],
)
def test_what_the_type_cannot_hold_is_refused_in_words(kind, value):
    with pytest.raises(RunError, match=rf"{W} has moved too far to be sent as {kind}"):
        there_and_back(kind, np.float32([1.0, value]))
    there_and_back(kind, np.float32([65_500.0]))


def test_training_is_not_given_what_an_upload_left_out():
    start, update = {W: np.zeros(2, np.float32)}, {W: np.full(2, 1 / 3, np.float32)}
    _, error = encode("float16", start, update, {})
    assert error
    assert without_error({"target.w": start[W], **error}) == {"target.w": start[W]}
