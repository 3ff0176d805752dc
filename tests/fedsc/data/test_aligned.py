import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from fedsc.data import rows
from fedsc.data.aligned import align, library_sizes, take_columns
from fedsc.data.expression import Expression
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read_or_open

DENSE = np.array([[0, 3, 1, 0], [2, 0, 0, 5], [0, 0, 0, 0], [1, 1, 1, 7]], dtype=np.float32)
GENES = np.array(["D", "A", "C", "X"], dtype=object)


def in_memory():
    cells = np.array([f"cell-{i}" for i in range(len(DENSE))], dtype=object)
    return Expression(GENES, cells, pd.DataFrame(index=cells), "counts", sp.csr_matrix(DENSE))


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsc.data.reading.read.memory_problem", lambda needed: "too large")
    cells = AnnData(
        sp.csr_matrix(DENSE.astype(np.uint16)), layers={"doubled": sp.csr_matrix(2 * DENSE)}
    )
    cells.var_names = GENES
    cells.write_h5ad(tmp_path / "lab.h5ad")
    return tmp_path / "lab.h5ad"


def pooled(cells):
    return sp.vstack(list(cells.blocks())).toarray()


@pytest.mark.parametrize("block", [1, 4, 10**6])
def test_columns_move_to_the_vocabulary(on_disk, block, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", block)
    expected = np.zeros((4, 5), dtype=np.float32)
    expected[:, [0, 2, 3]] = DENSE[:, [1, 2, 0]]
    for source in (in_memory(), read_or_open(on_disk)):
        cells = align(source, ["A", "B", "C", "D", "E"])
        np.testing.assert_array_equal(pooled(cells), expected)
        assert cells.measured.tolist() == [True, False, True, True, False]
        np.testing.assert_array_equal(cells.sizes, expected.sum(axis=1))
        assert cells.kind == "counts"
        assert next(cells.blocks()).dtype == np.float32
        np.testing.assert_array_equal(pooled(align(source, GENES)), DENSE)


def test_a_layer_on_disk(on_disk):
    source = read_or_open(on_disk, ReadAs("doubled"))
    np.testing.assert_array_equal(pooled(align(source, GENES)), 2 * DENSE)
    assert (source.n_cells, source.nonzeros) == (4, np.count_nonzero(DENSE))


def test_a_lab_without_cells():
    cells = align(in_memory().subset(np.array([], dtype=int)), ["A"])
    assert cells.sizes.shape == (0,)


def test_sizes_do_not_round():
    matrix = sp.csr_matrix(np.array([[2**24, 1, 1], [0, 0, 0]], dtype=np.float32))
    assert library_sizes(matrix).tolist() == [2**24 + 2, 0]  # float32 would lose both ones


def test_library_sizes_leave_columns_in_the_order_they_have():
    indices = np.array([3, 0, 2], dtype=np.int32)
    matrix = sp.csr_matrix((np.ones(3, dtype=np.float32), indices, [0, 3]), shape=(1, 4))
    assert library_sizes(matrix).tolist() == [3]
    assert matrix.indices.tolist() == [3, 0, 2]


def test_take_columns():
    moved = take_columns(sp.csr_matrix(DENSE), np.array([2, -1, 0, -1]), 3)
    np.testing.assert_array_equal(moved.toarray(), [[1, 0, 0], [0, 0, 2], [0, 0, 0], [1, 0, 1]])
