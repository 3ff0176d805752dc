import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from fedsc.data.preprocess import CellMatrix
from fedsc.errors import RunError
from fedsc.federated.answers import answer
from fedsc.federated.pca import (
    MEAN,
    SCATTER,
    as_encoder,
    learn_pca,
)
from fedsc.federated.query import Question, ask_locally


def cell_matrix(x, max_value=np.inf, measured=None):
    """Cells whose standardised values are those of ``x``, clipped and masked."""
    genes = x.shape[1]
    return CellMatrix(
        values=csr_matrix(x.astype(np.float32)),
        mean=np.zeros(genes, dtype=np.float32),
        std=np.ones(genes, dtype=np.float32),
        max_value=max_value,
        measured=np.ones(genes, dtype=bool) if measured is None else measured,
    )


def correlated(rng, cells, genes, offset=0.0):
    x = rng.standard_normal((cells, 6)) * [9, 7, 5, 4, 3, 2] @ rng.standard_normal((6, genes))
    return (x + 0.3 * rng.standard_normal((cells, genes)) + offset).astype(np.float32)


def pooled(x, n_components):
    return PCA(n_components, svd_solver="full").fit(x.astype(np.float64))


def learn(parts, n_components):
    return learn_pca(ask_locally([cell_matrix(part) for part in parts], answer), n_components)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equals_the_pca_of_the_pool(offset):
    # 1500 cells in one lab: more than a batch
    x = correlated(np.random.default_rng(0), 1800, 40, offset)
    found = learn([x[:1500], x[1500:1501], x[1501:]], 6)
    reference = pooled(x, 6)
    assert subspace_angles(found.axes.T, reference.components_.T).max() < 1e-4
    np.testing.assert_allclose(found.mean, reference.mean_, atol=1e-9)
    np.testing.assert_allclose(found.variances, reference.explained_variance_, rtol=1e-9)
    # axis by axis, signs included
    np.testing.assert_allclose(found.axes, reference.components_, atol=1e-7)
    np.testing.assert_allclose(
        (x - found.mean) @ found.axes.T, reference.transform(x.astype(np.float64)), atol=1e-5
    )


def test_equals_the_pca_of_the_pool_when_values_are_clipped_and_unmeasured():
    rng = np.random.default_rng(1)
    x = correlated(rng, 300, 30)
    measured = np.arange(30) != 4
    labs = [cell_matrix(x[:100], 5.0, measured), cell_matrix(x[100:], 5.0)]
    seen = x.clip(-5, 5)
    seen[:100, 4] = 0
    found = learn_pca(ask_locally(labs, answer), 5)
    assert subspace_angles(found.axes.T, pooled(seen, 5).components_.T).max() < 1e-4


def test_the_largest_loading_is_positive():
    found = learn([correlated(np.random.default_rng(2), 200, 20)], 6)
    largest = np.abs(found.axes).argmax(axis=1)
    assert (found.axes[np.arange(6), largest] > 0).all()


@given(st.integers(1, 119), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_how_cells_are_split_does_not_matter(cut, seed):
    x = correlated(np.random.default_rng(3), 120, 15)
    order = np.random.default_rng(seed).permutation(120)
    whole, split = learn([x], 4), learn([x[order[:cut]], x[order[cut:]]], 4)
    np.testing.assert_allclose(split.axes, whole.axes, atol=1e-9)
    np.testing.assert_allclose(split.variances, whole.variances, rtol=1e-10)


def test_the_same_question_twice_gives_the_same_bits():
    x = correlated(np.random.default_rng(4), 200, 25)
    first, second = learn([x[:90], x[90:]], 5), learn([x[:90], x[90:]], 5)
    assert first.axes.tobytes() == second.axes.tobytes()


@pytest.mark.parametrize(("cells", "genes", "expected"), [(200, 7, 7), (4, 12, 4), (30, 30, 20)])
def test_gives_no_more_components_than_there_are(cells, genes, expected):
    x = correlated(np.random.default_rng(5), cells, genes)
    found = learn([x[:2], x[2:]], 20)
    assert found.axes.shape == (expected, genes)
    assert found.variances.shape == (expected,)
    assert (found.variances >= 0).all()
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(expected), atol=1e-10)


def test_a_constant_pool_has_no_variance():
    found = learn([np.full((5, 3), 2.0), np.full((4, 3), 2.0)], 2)
    assert np.isfinite(found.axes).all()
    np.testing.assert_allclose(found.variances, 0, atol=1e-12)
    np.testing.assert_allclose((2.0 - found.mean) @ found.axes.T, 0, atol=1e-12)


def test_the_encoder_projects():
    x = correlated(np.random.default_rng(6), 100, 10, offset=3.0)
    found = learn([x], 4)
    encoder = as_encoder(found)
    assert encoder["encoder.0.weight"].dtype == encoder["encoder.0.bias"].dtype == np.float32
    by_layer = x @ encoder["encoder.0.weight"].T + encoder["encoder.0.bias"]
    np.testing.assert_allclose(by_layer, (x - found.mean) @ found.axes.T, atol=1e-3)


def test_answers_are_sums_of_the_labs_cells():
    x = correlated(np.random.default_rng(7), 50, 6)
    shift = np.arange(6.0)
    first = answer(cell_matrix(x), Question(MEAN))
    assert first["n"].tolist() == [50]
    assert first["n"].dtype == np.int64
    np.testing.assert_allclose(first["sum"], x.sum(axis=0, dtype=np.float64), rtol=1e-12)
    second = answer(cell_matrix(x), Question(SCATTER, {"shift": shift}))
    expected = sum(np.outer(cell - shift, cell - shift) for cell in x.astype(np.float64))
    np.testing.assert_allclose(second["scatter"], expected, rtol=1e-10)
    assert shift.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_lab_without_cells_adds_nothing():
    x = correlated(np.random.default_rng(8), 50, 6)
    np.testing.assert_array_equal(learn([x, x[:0]], 3).axes, learn([x], 3).axes)


@pytest.mark.parametrize("cells", [0, 1])
def test_refuses_a_pool_without_spread(cells):
    with pytest.raises(RunError, match=f"2 cells or more and the labs hold {cells}"):
        learn([np.ones((cells, 3))], 2)


def test_refuses_values_that_are_not_finite():
    x = np.ones((5, 3))
    x[2, 1] = np.nan
    with pytest.raises(RunError, match="not finite"):
        learn([np.ones((4, 3)), x], 2)
