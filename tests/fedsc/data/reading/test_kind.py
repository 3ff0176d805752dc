"""Counts, logarithms and everything else are told apart by their values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from fedsc.data.reading import kind as kind_module
from fedsc.data.reading.kind import judge, look_at
from fedsc.errors import DataError


def expression_kind(matrix: csr_matrix) -> str:
    kind, problems = judge(look_at(matrix))
    if kind is None:
        raise DataError(" and ".join(problems))
    return kind


def counts(cells: int = 60, genes: int = 50, mean: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(mean * rng.gamma(1, 1, genes), (cells, genes)).astype(float)


def scaled_to(x: np.ndarray, target: float) -> np.ndarray:
    return x * target / np.maximum(x.sum(axis=1, keepdims=True), 1)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "int64", "f4", "f8"])
def test_whole_numbers_of_any_type_are_counts(dtype):
    assert expression_kind(csr_matrix(counts().astype(dtype))) == "counts"


@pytest.mark.parametrize("target", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1)], ids=["natural", "base 2"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_logarithms_of_normalised_counts_are_lognorm(target, log, dtype):
    values = log(scaled_to(counts(mean=5), target)).astype(dtype)
    assert expression_kind(csr_matrix(values)) == "lognorm"


def test_logarithms_of_very_deep_cells_are_still_lognorm():
    # As 2 million counts scaled to 10,000: one count is 0.005, where log1p hardly bends.
    values = np.log1p(0.005 * counts(mean=5))
    assert expression_kind(csr_matrix(values.astype("f4"))) == "lognorm"


def test_one_cell_of_one_value_is_lognorm():
    assert expression_kind(csr_matrix([[0.0, 0.7]])) == "lognorm"


@pytest.mark.parametrize("target", [1.0, 5.0, 1e4, 1e6])
def test_normalised_values_without_logarithm_are_refused(target):
    with pytest.raises(DataError, match="neither raw counts nor log-normalised"):
        expression_kind(csr_matrix(scaled_to(counts(), target).astype("f4")))


def test_large_linear_values_that_are_no_multiples_are_refused():
    values = np.random.default_rng(0).lognormal(3, 2, (30, 20))
    with pytest.raises(DataError, match=r"not whole numbers, and go up to [\d,]+"):
        expression_kind(csr_matrix(values))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (-0.5, "scaled values"),
        (-3, "1 negative value, down to -3, and no count"),
        (np.nan, "1 value that are NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (-np.inf, "NaN or infinite"),
        (2.0**25, "too many for molecule counts"),
    ],
)
def test_a_single_bad_value_among_counts_is_found(bad, sentence):
    values = counts()
    values[17, 3] = bad
    with pytest.raises(DataError, match=sentence):
        expression_kind(csr_matrix(values))


def test_every_reason_is_given():
    values = counts()
    values[0, 0], values[1, 1] = np.nan, -1
    with pytest.raises(DataError, match="NaN or infinite and holds 1 negative value"):
        expression_kind(csr_matrix(values))


def test_only_zeros_are_refused():
    with pytest.raises(DataError, match="only zeros"):
        expression_kind(csr_matrix((3, 4)))


def test_empty_cells_do_not_hide_the_kind():
    values = np.zeros((500, 20))
    values[1] = np.log1p(np.arange(20) * 0.7)  # none of the cells that are looked at
    assert expression_kind(csr_matrix(values)) == "lognorm"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    block=st.integers(1, 50),
    scale=st.sampled_from([1.0, -3.0, 0.1]),
    bad=st.sampled_from([0, 1, 5]),
)
def test_blocks_sum_up_to_the_obvious_reference(seed, block, scale, bad):
    rng = np.random.default_rng(seed)
    matrix = csr_matrix(random_array((9, 7), density=0.5, rng=rng, data_sampler=rng.normal))
    matrix.data = np.rint(scale * matrix.data * 5)
    matrix.data[:bad] = np.nan
    matrix.eliminate_zeros()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind_module, "_BLOCK", block)
        values = look_at(matrix)
    dense = matrix.toarray()
    finite = dense[np.isfinite(dense)]
    assert values.not_finite == np.isnan(dense).sum()
    assert values.negative == (finite < 0).sum()
    below = [tuple(place) for place in np.argwhere(dense < 0)]
    assert values.first_negative == (below[0] if below else None)
    assert (values.smallest, values.largest) == (finite.min(), finite.max())
    assert values.whole
    if values.not_finite:
        assert values.first_not_finite == tuple(np.argwhere(np.isnan(dense))[0])
    else:
        assert values.first_not_finite is None
