"""Matrices come out of HDF5 the same whatever their storage, slab by slab."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from fedsc.data.reading import stored
from fedsc.data.reading.stored import Compressed, Dense
from fedsc.errors import DataError

DTYPES = ["bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64"]


@pytest.fixture(scope="module")
def file():
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        yield file


def put(file: h5py.File, x: np.ndarray, form: str, chunks: tuple[int, int] | None = None):
    file.pop("x", None)
    if form in ("dense", "genes first"):
        turned = form == "genes first"
        node = file.create_dataset("x", data=x.T if turned else x, chunks=chunks)
        return Dense(node, genes_first=turned)
    # scipy has no matrices of float16 in all its versions; what a file holds is put in afterwards.
    matrix = (csc_matrix if form == "csc" else csr_matrix)(x.astype(np.float64))
    group = file.create_group("x")
    group["data"] = matrix.data.astype(x.dtype)
    for name in ("indices", "indptr"):
        group[name] = getattr(matrix, name)
    return Compressed(group["data"], group["indices"], group["indptr"], x.shape, form == "csc")


@settings(max_examples=80, deadline=None)
@given(
    cells=st.integers(1, 12),
    genes=st.integers(1, 9),
    form=st.sampled_from(["dense", "genes first", "csr", "csc"]),
    dtype=st.sampled_from(DTYPES),
    slab=st.integers(1, 40),
    chunk=st.sampled_from([None, (1, 1), (3, 2)]),
    seed=st.integers(0, 10**6),
)
def test_loading_equals_the_array(file, cells, genes, form, dtype, slab, chunk, seed):
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 250, (cells, genes)) * (rng.random((cells, genes)) < 0.4)).astype(dtype)
    fits = chunk and cells >= 3 and genes >= 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "SLAB", slab)
        matrix = put(file, x, form, chunk if fits else None)
        assert matrix.shape == x.shape
        loaded = matrix.load()
    assert type(loaded) is csr_matrix
    assert loaded.dtype == np.float32
    assert loaded.has_canonical_format
    assert loaded.nnz == np.count_nonzero(x)
    np.testing.assert_array_equal(loaded.toarray(), x.astype(np.float32))


@pytest.mark.parametrize("form", ["dense", "genes first", "csr", "csc"])
def test_a_sample_is_the_beginning(file, form, monkeypatch):
    monkeypatch.setattr(stored, "_SAMPLE", 30)
    x = np.random.default_rng(0).poisson(1, (40, 10))
    sample = put(file, x, form).sample().toarray()
    assert 0 < np.count_nonzero(sample) <= 30
    np.testing.assert_array_equal(sample, x[: len(sample), : sample.shape[1]])


def test_unsorted_repeated_and_zero_entries_are_put_in_order(file):
    file.pop("x", None)
    group = file.create_group("x")
    group["data"], group["indices"] = [5, 1, 2, 0], [2, 0, 2, 1]
    group["indptr"] = [0, 3, 4]
    loaded = Compressed(group["data"], group["indices"], group["indptr"], (2, 3)).load()
    np.testing.assert_array_equal(loaded.toarray(), [[1, 0, 7], [0, 0, 0]])
    assert loaded.nnz == 2


def test_values_too_large_for_float32_become_infinite_without_a_warning(file):
    for form in ("dense", "csr"):
        loaded = put(file, np.array([[1e300, 1.0]]), form).load()
        assert loaded.toarray().tolist() == [[np.inf, 1.0]]


def test_text_is_refused(file):
    file.pop("x", None)
    file["x"] = np.array([[b"a", b"b"]])
    with pytest.raises(DataError, match="not numbers"):
        Dense(file["x"]).load()


def test_indices_out_of_range_are_refused(file):
    matrix = put(file, np.eye(3), "csr")
    matrix.indices[1] = 99
    with pytest.raises(ValueError, match="indices must be < 3"):
        matrix.load()


def test_needed_memory_is_counted_from_the_header(file):
    x = np.eye(200)
    loaded = 200 * 8 + 201 * 4
    assert put(file, x, "csr").needed_bytes() == loaded
    assert put(file, x, "csc").needed_bytes() == 2 * loaded
    assert put(file, x, "dense").needed_bytes() == 2 * loaded  # one in 200 in every row


def test_beyond_two_billion_values_indices_take_eight_bytes(file):
    file.pop("x", None)
    data = file.create_dataset("x", (3 * 10**9,), "u1", chunks=(1000,))  # never written
    assert Compressed(data, data, data, (10, 10)).needed_bytes() == 3 * 10**9 * 12 + 11 * 8


def test_nothing_at_all_is_an_empty_matrix(file):
    for form in ("dense", "csr", "csc"):
        for shape in ((0, 4), (4, 0)):
            matrix = put(file, np.zeros(shape), form)
            assert matrix.needed_bytes() >= 0
            assert matrix.load().shape == shape
