"""Files whose values stay on disk: what is read of them is what is read into memory."""

from itertools import pairwise

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from fedsc.data.expression import Expression, OnDisk
from fedsc.data.reading import large, stored
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read, read_or_keep
from fedsc.errors import DataError


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    monkeypatch.setattr(stored, "SLAB", 300)


def kept(path, tmp_path, **how):
    return read_or_keep(path, lambda: tmp_path / "cache", ReadAs(**how))


def whole(found):
    return found.rows.read(0, len(found.cells))


def assert_equal(found, expected):
    assert isinstance(found, OnDisk)
    assert isinstance(expected, Expression)
    for name in ("data", "indices", "indptr"):
        ours, theirs = getattr(whole(found), name), getattr(expected.matrix, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert found.kind == expected.kind
    assert found.totals.tobytes() == expected.totals.tobytes()
    np.testing.assert_array_equal(found.genes, expected.genes)
    np.testing.assert_array_equal(found.cells, expected.cells)
    assert found.obs.equals(expected.obs)
    if expected.labels is not None:
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("form", ["csr", "dense", "unsorted", "lognorm"])
def test_values_on_disk_are_those_in_memory(tiny_set, tmp_path, form):
    cells = anndata.read_h5ad(tiny_set)
    if form == "dense":
        cells.X = cells.X.toarray()
    if form == "lognorm":
        cells.X = np.log1p(cells.X)
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    if form == "unsorted":
        with h5py.File(path, "r+") as file:
            ends, x = file["X/indptr"][:], file["X"]
            data, indices = x["data"][:], x["indices"][:]
            for a, b in pairwise(ends):
                data[a:b], indices[a:b] = data[a:b][::-1], indices[a:b][::-1]
            x["data"][:], x["indices"][:] = data, indices
            x["data"][3] = 0
    expected = read(path, ReadAs(label_key="cell_type"))
    assert_equal(kept(path, tmp_path, label_key="cell_type"), expected)
    again = kept(path, tmp_path, label_key="cell_type")
    assert_equal(again, expected)
    some = np.array([90, 3, 4, 5, 17])
    assert_equal(again.subset(some), expected.subset(some))


def test_a_matrix_by_gene_is_read_into_memory(tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert isinstance(kept(tmp_path / "cells.h5ad", tmp_path), Expression)
    assert not (tmp_path / "cache").exists()


def test_a_copy_is_made_once_and_anew_of_a_file_that_has_changed(tiny_set, tmp_path, monkeypatch):
    path, cells = tmp_path / "cells.h5ad", anndata.read_h5ad(tiny_set)
    cells.write_h5ad(path)
    first = kept(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(stored.Compressed, "blocks", lambda self: pytest.fail("was read again"))
        kept(path, tmp_path, label_key="cell_type")
    cells[:40].write_h5ad(path)
    second = kept(path, tmp_path)
    assert len(second.cells) == second.rows.shape[0] == 40
    assert whole(first).shape[0] == 96  # who has the old one open keeps it
    assert len(list((tmp_path / "cache").glob("rows-*"))) == 2


@pytest.mark.parametrize("part", ["safetensors", "values"])
def test_a_damaged_copy_is_made_anew(tiny_set, tmp_path, part):
    expected = read(tiny_set)
    kept(tiny_set, tmp_path)
    (file,) = (tmp_path / "cache").glob(f"*.{part}")
    file.write_bytes(file.read_bytes()[:-5])
    assert_equal(kept(tiny_set, tmp_path), expected)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x.data.__setitem__(700, np.nan), r"first: cell 'c\S*', gene"),
        (lambda x: x.data.__setitem__(700, -1.5), "scaled values"),
        (lambda x: np.divide(x.data, 7, out=x.data), "multiples of its smallest"),
    ],
)
def test_what_is_refused_in_memory_is_refused_in_the_same_words(tiny_set, tmp_path, spoil, words):
    path, cells = tmp_path / "cells.h5ad", anndata.read_h5ad(tiny_set)
    spoil(cells.X)
    cells.write_h5ad(path)
    with pytest.raises(DataError, match=words) as in_memory:
        read(path)
    with pytest.raises(DataError) as on_disk:
        kept(path, tmp_path)
    assert str(on_disk.value) == str(in_memory.value)
    assert not list((tmp_path / "cache").glob("rows-*"))


def test_faults_of_names_and_values_are_told_together(tiny_set, tmp_path):
    path, cells = tmp_path / "cells.h5ad", anndata.read_h5ad(tiny_set)
    cells.X.data[5] = -1
    cells.write_h5ad(path)
    with pytest.raises(DataError, match=r"no label column 'kind'(.|\n)*negative value.*cell"):
        kept(path, tmp_path, label_key="kind")


def test_row_ends_that_go_back_are_refused(tiny_set, tmp_path):
    path = tmp_path / "cells.h5ad"
    anndata.read_h5ad(tiny_set).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X/indptr"][4] = 5000
    with pytest.raises(DataError, match="cannot be read"):
        kept(path, tmp_path)
