"""Moments of columns: against NumPy's."""

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.data.columns import centred_sums, mean_variance


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_centred_sums_are_column_moments(seed):
    rng = np.random.default_rng(seed)
    dense = rng.poisson(1.0, size=(6, 4)) * rng.normal(3, 1, size=(6, 4))
    padded = np.vstack([dense, np.zeros((2, 4))])  # rows that do not count
    centre = rng.normal(size=4)
    sums, squares = centred_sums(sp.csr_matrix(padded), centre, 6)
    np.testing.assert_allclose(sums, (dense - centre).sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(squares, ((dense - centre) ** 2).sum(axis=0), atol=1e-12)
    mean, variance = mean_variance(centre, sums, squares, 6)
    np.testing.assert_allclose(mean, dense.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(variance, dense.var(axis=0, ddof=1), atol=1e-12)


def test_moments_of_one_cell_and_of_none():
    mean, variance = mean_variance(
        np.zeros(2), np.array([3.0, 0.0]), np.array([9.0, 0.0]), np.array([1, 0])
    )
    assert mean.tolist() == [3.0, 0.0]
    assert variance.tolist() == [0.0, 0.0]
