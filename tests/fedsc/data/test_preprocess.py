import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.data.expression import Expression
from fedsc.data.preprocess import (
    CellMatrix,
    Preprocessing,
    log_normalise,
    transform,
)
from fedsc.errors import DataError

VOCABULARY = ("A", "B", "C", "D")
COUNTS = np.array([[1, 0, 3, 4], [0, 0, 0, 0], [2, 2, 0, 1], [0, 9, 1, 0]], dtype=np.float32)
LEARNT = Preprocessing(
    genes=("B", "D"),
    mean=np.array([0.5, 1.0]),
    std=np.array([2.0, 0.25]),
    target_sum=10.0,
    max_value=3.0,
    vocabulary=VOCABULARY,
)


def expression(matrix, genes=VOCABULARY, kind="counts"):
    cells = np.array([f"cell-{i}" for i in range(len(matrix))], dtype=object)
    matrix = sp.csr_matrix(np.asarray(matrix, dtype=np.float32))
    return Expression(
        np.array([*genes], dtype=object), cells, pd.DataFrame(index=cells), kind, matrix
    )


def by_hand(counts, preprocessing=LEARNT):
    sizes = counts.sum(axis=1, keepdims=True)
    x = np.log1p(counts / np.maximum(sizes, 1) * preprocessing.target_sum)
    x = x[:, [VOCABULARY.index(gene) for gene in preprocessing.genes]]
    x = (x - preprocessing.mean) / preprocessing.std
    return np.clip(x, -preprocessing.max_value, preprocessing.max_value)


def test_library_size_counts_the_whole_vocabulary_and_nothing_else():
    cells = transform(expression(COUNTS), LEARNT)
    assert (cells.n_cells, cells.n_genes) == (4, 2)
    np.testing.assert_allclose(cells.batch(np.arange(4)), by_hand(COUNTS), rtol=1e-6)
    wider = np.column_stack([np.full(4, 100), COUNTS[:, ::-1]])
    cells = transform(expression(wider, ["X", "D", "C", "B", "A"]), LEARNT)
    np.testing.assert_allclose(cells.batch(np.arange(4)), by_hand(COUNTS), rtol=1e-6)


def test_a_cell_without_counts_is_a_cell_of_zeros():
    cells = transform(expression(COUNTS), LEARNT)
    np.testing.assert_allclose(cells.batch(np.array([1])), [[-0.25, -3.0]])


def test_unmeasured_genes_are_exactly_zero():
    cells = transform(expression(COUNTS[:, :3], "ABC"), LEARNT)
    assert cells.measured.tolist() == [True, False]
    batch = cells.batch(np.arange(4))
    assert (batch[:, 1] == 0).all()
    narrow = COUNTS * [1, 1, 1, 0]  # library size: what was measured
    np.testing.assert_allclose(batch[:, 0], by_hand(narrow)[:, 0], rtol=1e-6)


def test_rows_come_in_any_order_and_repeat():
    cells = transform(expression(COUNTS), LEARNT)
    rows = np.array([3, 0, 3, 2])
    batch = cells.batch(rows)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch, by_hand(COUNTS)[rows], rtol=1e-6)
    batch[:] = 7  # the next batch is a new array
    np.testing.assert_allclose(cells.batch(rows), by_hand(COUNTS)[rows], rtol=1e-6)
    assert cells.batch(np.array([], dtype=int)).shape == (0, 2)


def test_no_clipping():
    learnt = dataclasses.replace(LEARNT, max_value=np.inf)
    batch = transform(expression(COUNTS), learnt).batch(np.arange(4))
    np.testing.assert_allclose(batch, by_hand(COUNTS, learnt), rtol=1e-6)
    assert np.abs(batch).max() > 3


def test_lognorm_passes_through():
    learnt = dataclasses.replace(LEARNT, target_sum=0.0)
    values = np.log1p(COUNTS)
    batch = transform(expression(values, kind="lognorm"), learnt).batch(np.arange(4))
    expected = np.clip((values[:, [1, 3]] - learnt.mean) / learnt.std, -3, 3)
    np.testing.assert_allclose(batch, expected, rtol=1e-5)


def test_scale_by_lab_uses_the_lab_s_cells_with_counts():
    values = np.log1p(COUNTS[[0, 2, 3]] / COUNTS[[0, 2, 3]].sum(axis=1, keepdims=True) * 10)
    values = values[:, [1, 3]]
    cells = transform(expression(COUNTS), LEARNT, scale="lab")
    np.testing.assert_allclose(cells.mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(cells.std, values.std(axis=0, ddof=1), rtol=1e-6)
    expected = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(cells.batch(np.array([0, 2, 3])), expected, rtol=1e-5)


def test_scale_by_lab_of_constant_and_unmeasured_genes():
    constant = expression([[1, 4], [1, 4]], ["B", "C"])
    cells = transform(constant, LEARNT, scale="lab")
    assert cells.std.tolist() == [1.0, 0.25]  # constant; unmeasured keeps the pool's
    np.testing.assert_allclose(cells.batch(np.arange(2)), 0, atol=1e-6)


def test_wrong_files_are_refused():
    with pytest.raises(DataError, match=r"holds log-normalised values but .* on raw counts"):
        transform(expression(COUNTS, kind="lognorm"), LEARNT)
    with pytest.raises(DataError, match=r"holds raw counts but .* on log-normalised values"):
        transform(expression(COUNTS), dataclasses.replace(LEARNT, target_sum=0.0))
    with pytest.raises(DataError, match=r"none of the 2 genes the model uses \(B, D, …\)"):
        transform(expression(COUNTS[:, :2], "AC"), LEARNT)
    learnt = dataclasses.replace(LEARNT, genes=("g1", "g3"), vocabulary=("g0", "g1", "g2", "g3"))
    transform(expression(COUNTS, ["g0", "g1", "g2", "g3"]), learnt)
    with pytest.raises(DataError, match="names 3 genes by position"):
        transform(expression(COUNTS[:, :3], ["g0", "g1", "g2"]), learnt)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.1, 20))
def test_batch_is_standardise_and_clip(seed, density, max_value):
    rng = np.random.default_rng(seed)
    n, width = rng.integers(1, 12, size=2)
    values = sp.random(n, width, density, "csr", np.float32, random_state=rng)
    cells = CellMatrix(
        values,
        rng.normal(size=width).astype(np.float32),
        rng.uniform(0.1, 2, size=width).astype(np.float32),
        max_value,
        rng.random(width) < 0.7,
    )
    rows = rng.integers(n, size=5)
    expected = np.clip((values.toarray() - cells.mean) / cells.std, -max_value, max_value)
    expected[:, ~cells.measured] = 0
    np.testing.assert_allclose(cells.batch(rows), expected[rows], rtol=1e-5, atol=1e-6)


def test_log_normalise_is_sparse_and_equals_scanpy():
    import scanpy as sc
    from anndata import AnnData

    counts = sp.csr_matrix(COUNTS[[0, 2, 3]].astype(np.float64))
    cells = AnnData(counts.copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    ours = log_normalise(counts, 1e4)
    assert ours.nnz == counts.nnz
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours.toarray(), cells.X.toarray(), rtol=1e-14)
    assert counts.max() == 9  # the input is left alone
    assert log_normalise(sp.csr_matrix((2, 3)), 1e4).nnz == 0
