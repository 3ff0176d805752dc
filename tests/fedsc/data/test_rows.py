import os

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from fedsc.data import rows
from fedsc.errors import DataError


def matrix_of(seed=0, shape=(23, 7), density=0.4):
    return sp.random(*shape, density, "csr", np.float32, random_state=np.random.default_rng(seed))


def kept(matrix, path, step=5):
    blocks = (matrix[i : i + step] for i in range(0, matrix.shape[0], step))
    return rows.open_rows(path, *rows.write_rows(path, blocks), matrix.shape[1])


def stacked(found):
    return sp.vstack([sp.csr_matrix((0, found.width), dtype=np.float32), *found.blocks()], "csr")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rows") / "values"


@given(
    st.integers(0, 9),
    st.lists(st.integers(0, 22), max_size=40),
    st.integers(1, 60),
    st.data(),
)
def test_any_rows_in_any_order_are_those_of_the_matrix(place, seed, wanted, block, data):
    matrix = matrix_of(seed)
    again = data.draw(st.lists(st.integers(0, len(wanted) - 1), max_size=9)) if wanted else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", block)
        some = kept(matrix, place).take(np.array(wanted, dtype=np.int64))
        for found, expected in (
            (some, matrix[wanted]),
            (some.take(np.array(again, dtype=np.int64)), matrix[wanted][again]),
        ):
            whole = stacked(found)
            assert (found.shape, found.nnz) == (expected.shape, expected.nnz)
            for name in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(whole, name), getattr(expected, name))
            assert found.totals.tobytes() == rows.row_totals(expected).tobytes()


def test_no_more_is_read_at_once_than_a_block_and_nothing_twice(tmp_path, monkeypatch):
    matrix = matrix_of(shape=(2000, 50))
    found = kept(matrix, tmp_path / "values")
    monkeypatch.setattr(rows, "BLOCK", 1000)
    sizes, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: sizes.append(preadv(*given)) or sizes[-1])
    for block in found.blocks():
        assert block.nnz < 1.3 * 1000
    assert sum(sizes) == 8 * matrix.nnz
    assert len(sizes) == len(list(range(0, 2000, rows.rows_per_block(2000, matrix.nnz))))
    sizes.clear()
    every_third = found.take(np.arange(0, 2000, 3))
    list(every_third.blocks())
    assert sum(sizes) == 8 * every_third.nnz


def test_the_values_stay_when_the_name_goes(tmp_path):
    matrix = matrix_of()
    found = kept(matrix, tmp_path / "values")
    (tmp_path / "values").unlink()
    np.testing.assert_array_equal(stacked(found).toarray(), matrix.toarray())


def test_a_damaged_file_is_not_believed(tmp_path):
    path, matrix = tmp_path / "values", matrix_of()
    found = kept(matrix, path)
    with path.open("rb+") as file:
        file.write((7).to_bytes(4, "little"))  # a column that the matrix has not
    with pytest.raises(DataError, match="damaged"):
        list(found.blocks())
    os.truncate(path, 16)
    with pytest.raises(DataError, match="cut off"):
        list(found.blocks())
    with pytest.raises(ValueError, match="has 16 bytes"):
        rows.open_rows(path, found.counts, found.totals, 7)
