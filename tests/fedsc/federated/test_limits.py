import numpy as np
import pytest

from fedsc.federated.limits import bad_weights, distance, squares, too_far

START = {
    "encoder.0.weight": np.ones((3, 3), dtype=np.float32),
    "encoder.0.norm.running_var": np.ones(3, dtype=np.float32),
}


def _moved(name, value):
    return {**START, name: np.full_like(START[name], value)}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("encoder.0.weight", 3e38, "its weights moved by"),
        ("encoder.0.weight", 12.0, "no training moves them by more than 30"),
        ("encoder.0.norm.running_var", -5.0, "running_var is negative"),
        ("encoder.0.norm.running_var", 1e30, "running_var is above"),
    ],
)
def test_weights_that_would_poison_the_average_are_refused(name, value, words):
    update = _moved(name, value)
    assert words in bad_weights(START, update, distance(START, update))


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoder.0.weight", 2.0), ("encoder.0.norm.running_var", 0.0)],
    ids=["trained", "a-unit-that-never-fires"],
)
def test_weights_that_training_makes_pass(name, value):
    update = _moved(name, value)
    assert bad_weights(START, update, distance(START, update)) == ""


def test_the_distance_is_one_norm_over_parameters_alone():
    assert distance(START, _moved("encoder.0.weight", 3.0)) == 6.0
    assert distance(START, _moved("encoder.0.norm.running_var", 9.0)) == 0.0


@pytest.mark.parametrize("n", [1, 7, 129, 2**14, 2**14 + 1, 33_001, 100_000])
def test_squares_have_the_bits_of_one_sum(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n)).astype(np.float32)
    assert squares(a, b) == np.square(a.astype(np.float64) - b).sum()


def test_a_lab_that_moves_far_more_than_the_others_is_named():
    steps = dict.fromkeys("ABCD", 5)
    moved = {"A": 1.0, "B": 1.2, "C": 0.8, "D": 50.0}
    found = too_far(moved, steps, dict.fromkeys(moved, START))
    assert list(found) == ["D"]
    assert "the median of the round is 1.1 " in found["D"]


def test_a_lab_with_more_cells_may_move_farther():
    moved = {"A": 1.0, "B": 1.2, "C": 0.8, "D": 50.0}
    assert too_far(moved, {"A": 5, "B": 5, "C": 5, "D": 100}, dict.fromkeys(moved, START)) == {}


@pytest.mark.parametrize(("own", "far"), [(99.0, False), (101.0, True)])
def test_a_claim_of_ever_more_cells_does_not_allow_ever_more(own, far):
    moved = {"A": 1.0, "B": own, "C": 1.0}
    found = too_far(moved, {"A": 8, "B": 10**5, "C": 8}, dict.fromkeys(moved, START))
    assert ("B" in found) is far


@pytest.mark.parametrize(
    "moved",
    [
        {},
        {"A": 5.0},
        {"A": 0.5, "B": 14.4},  # a last batch of two cells moves an honest lab so far
        {"small": 1.0, "large": 39.0},
        {"A": 0.1, "B": 0.1, "C": 14.0, "D": 15.0},  # half of the labs
    ],
)
def test_one_lab_or_two_or_half_of_the_labs_are_not_blamed(moved):
    steps = {**dict.fromkeys("ABCD", 1), "small": 2, "large": 79}  # of 135 and of 10 000 cells
    assert too_far(moved, steps, dict.fromkeys(moved, START)) == {}


@pytest.mark.parametrize(("own", "far"), [(0.29, False), (0.31, True)])
def test_a_small_move_is_never_far_however_little_the_others_move(own, far):
    moved = {"A": 0.01, "B": 0.01, "C": 0.01, "D": own}  # the norm of the start is 3
    assert ("D" in too_far(moved, dict.fromkeys(moved, 1), dict.fromkeys(moved, START))) is far
