import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.federated.averaging import fedavg


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
