import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.federated.averaging import average, fedavg, mix, trimmed


def _update(values, statistic):
    return {
        "encoder.0.weight": np.array(values, dtype=np.float32),
        "encoder.0.norm.running_var": np.array(statistic, dtype=np.float32),
    }


def test_weights_are_shares_of_cells_for_parameters_and_statistics():
    average = fedavg([_update([[1.0, 2.0]], [4.0]), _update([[5.0, 6.0]], [8.0])], [30, 10])
    np.testing.assert_array_equal(average["encoder.0.weight"], [[2.0, 3.0]])
    np.testing.assert_array_equal(average["encoder.0.norm.running_var"], [5.0])
    assert average["encoder.0.weight"].dtype == np.float32


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_average_is_the_exact_mean_of_the_pooled_cells(labs):
    updates = [{"w": np.full((2, 3), value, dtype=np.float32)} for _, value in labs]
    cells = [n for n, _ in labs]
    slow = sum(n * float(np.float32(v)) for n, v in labs) / sum(cells)
    np.testing.assert_allclose(fedavg(updates, cells)["w"], slow, rtol=1e-6, atol=1e-6)


def test_a_lab_alone_keeps_its_bits():
    update = {"w": np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)}
    assert fedavg([update], [17])["w"].tobytes() == update["w"].tobytes()


@pytest.mark.parametrize(
    ("updates", "cells"),
    [
        ([], []),
        ([{"w": np.zeros(2)}], [0]),
        ([{"w": np.zeros(2)}], [1, 2]),
        ([{"w": np.zeros(2)}, {"v": np.zeros(2)}], [1, 1]),
        ([{"w": np.zeros(2)}, {"w": np.zeros(3)}], [1, 1]),
    ],
)
def test_what_does_not_fit_together_is_refused(updates, cells):
    with pytest.raises(ValueError, match=r"average|differ|shapes"):
        fedavg(updates, cells)


@given(st.integers(1, 9), st.integers(0, 1000))
def test_the_median_is_numpy_s_by_coordinate_and_every_lab_counts_alike(labs, seed):
    rng = np.random.default_rng(seed)
    updates = [{"w": rng.normal(size=(3, 4)).astype(np.float32)} for _ in range(labs)]
    slow = np.median(np.stack([update["w"] for update in updates]).astype(float), axis=0)
    for cells in ([1] * labs, rng.integers(1, 10**9, labs).tolist()):
        found = average(updates, cells, "median")["w"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, slow.astype(np.float32))


@given(st.integers(1, 30), st.floats(0.01, 0.49), st.integers(0, 1000))
def test_the_trimmed_mean_is_a_slow_loop_s_by_coordinate(labs, share, seed):
    rng = np.random.default_rng(seed)
    updates = [{"w": rng.normal(size=5).astype(np.float32)} for _ in range(labs)]
    cut = trimmed(labs, share)
    assert 2 * cut < labs
    found = average(updates, [1] * labs, "trimmed-mean", share)["w"]
    for i in range(5):
        values = sorted(float(update["w"][i]) for update in updates)[cut : labs - cut]
        assert found[i] == pytest.approx(sum(values) / len(values), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_a_liar_among_four_moves_a_robust_average_no_farther_than_the_honest_lie(rule):
    honest = [{"w": np.float32([value])} for value in (1.0, 2.0, 3.0)]
    liar = {"w": np.float32([1e30])}
    assert 1 <= average([*honest, liar], [1, 1, 1, 10**9], rule)["w"][0] <= 3
    assert average([*honest, liar], [1, 1, 1, 10**9], "mean")["w"][0] > 1e29


def test_a_tenth_of_four_updates_is_one():
    assert [trimmed(n, 0.1) for n in (1, 2, 3, 4, 10, 11)] == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("n", [1, 2**14, 40_000])
def test_block_by_block_has_the_bits_of_the_whole(n):
    rng = np.random.default_rng(n)
    arrays, shares = rng.normal(size=(3, n)).astype(np.float32), [0.2, 0.5, 0.3]
    slow = np.zeros(n)
    for array, share in zip(arrays, shares, strict=True):
        slow += array.astype(np.float64) * share
    assert mix(list(arrays), shares).tobytes() == slow.astype(np.float32).tobytes()
