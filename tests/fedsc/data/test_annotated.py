import os
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.data.additions import Additions, Annotation, additions_of
from fedsc.data.annotated import Origin, write_annotated
from fedsc.data.reading.read import read
from fedsc.errors import DataError, RunError


def _results(**more):
    given = {"embedding": np.zeros((96, 3)), "clusters": np.full(96, 2), "k": 4, "about": {"k": 4}}
    return Annotation(**given | more)


@pytest.fixture
def full_file(cells, tmp_path):
    """A file with everything a file can hold, results of an earlier run among it."""
    cells.obs["text"] = [f"t{i % 2}" for i in range(96)]
    cells.obs["fedsc_type"] = "old"
    cells.var["symbol"] = [f"s{i}" for i in range(60)]
    cells.raw = cells.copy()
    cells.layers["half"] = cells.X / 2
    cells.obsm["X_pca"] = np.ones((96, 2))
    cells.obsm["X_fedsc_umap"] = np.ones((96, 2))
    cells.obsp["near"] = csr_matrix(np.eye(96))
    cells.varm["loadings"] = np.ones((60, 3))
    cells.uns["note"] = {"a": np.arange(3), "b": "text"}
    cells.uns["rank_genes_groups"] = {"params": {"groupby": "cell_type"}}
    path = tmp_path / "in.h5ad"
    cells.write_h5ad(path)
    return path


def _contents(node):
    """All values of a group, by path."""
    found = {}
    node.visititems(
        lambda name, n: found.update({name: n[()]}) if isinstance(n, h5py.Dataset) else None
    )
    return found


@pytest.mark.parametrize("rows", [None, np.arange(95, -1, -2)])
def test_a_copy_has_all_the_file_had_and_the_results(full_file, tmp_path, rows):
    given, out = read(full_file), tmp_path / "out.h5ad"
    before = full_file.read_bytes()
    expression = given if rows is None else given.subset(rows)
    n = len(expression.cells)
    results = _results(embedding=np.ones((n, 3)), clusters=np.arange(n) % 4)
    write_annotated(Origin(full_file, rows), out, expression, additions_of(results))
    assert full_file.read_bytes() == before
    one, other = anndata.read_h5ad(full_file), anndata.read_h5ad(out)
    one = one if rows is None else one[rows]
    added = ["fedsc_cluster"]
    assert list(other.obs) == ["cell_type", "donor", "text", *added]  # the old type has gone
    assert list(other.obs["fedsc_cluster"].astype(int)) == list(np.arange(n) % 4)
    pd.testing.assert_frame_equal(one.obs.drop(columns="fedsc_type"), other.obs.drop(columns=added))
    pd.testing.assert_frame_equal(one.var, other.var)
    assert set(other.obsm) == {"X_pca", "X_fedsc"}
    for ours, theirs in (
        (one.X, other.X),
        (one.raw.X, other.raw.X),
        (one.layers["half"], other.layers["half"]),
        (one.obsp["near"], other.obsp["near"]),
    ):
        assert (ours != theirs).nnz == 0
    np.testing.assert_array_equal(one.varm["loadings"], other.varm["loadings"])
    assert other.uns["note"]["b"] == "text"
    assert other.uns["rank_genes_groups"]["params"]["groupby"] == "cell_type"
    assert other.uns["fedsc"]["k"] == 4


def test_a_whole_file_is_copied_as_it_lies_without_being_read(full_file, tmp_path, monkeypatch):
    """So it may be larger than memory: nothing of X or a layer comes into it."""
    expression, out = read(full_file), tmp_path / "out.h5ad"
    monkeypatch.setattr("anndata.read_h5ad", None)
    monkeypatch.setattr("h5py.Dataset.__getitem__", _only_small)
    write_annotated(Origin(full_file), out, expression, additions_of(_results()))
    monkeypatch.undo()
    assert list(tmp_path.glob(".*")) == []
    assert out.stat().st_size < full_file.stat().st_size + 100_000
    with h5py.File(full_file) as a, h5py.File(out) as b:
        assert dict(a.attrs) == dict(b.attrs)
        for group in ("X", "raw", "layers", "var", "obsp", "varm", "uns/note"):
            one, other = _contents(a[group]), _contents(b[group])
            assert one.keys() == other.keys()
            for name, value in one.items():
                np.testing.assert_array_equal(value, other[name])


_getitem = h5py.Dataset.__getitem__


def _only_small(self, *arguments, **options):
    assert self.size < 1000, f"{self.name} is read"
    return _getitem(self, *arguments, **options)


def test_markers_of_an_older_run_go_where_there_are_no_new_ones(full_file, tmp_path):
    with h5py.File(full_file, "r+") as file:
        del file["uns/rank_genes_groups/params/groupby"]
        anndata.io.write_elem(file["uns/rank_genes_groups/params"], "groupby", "fedsc_cluster")
    out = tmp_path / "out.h5ad"
    write_annotated(Origin(full_file), out, read(full_file), additions_of(_results()))
    assert set(anndata.read_h5ad(out).uns) == {"note", "fedsc"}


@pytest.mark.parametrize("markers", [{"names": np.arange(3)}, "a note"])
def test_what_only_has_the_name_of_markers_stays(full_file, tmp_path, markers):
    with h5py.File(full_file, "r+") as file:
        del file["uns/rank_genes_groups"]
        anndata.io.write_elem(file["uns"], "rank_genes_groups", markers)
    out = tmp_path / "out.h5ad"
    write_annotated(Origin(full_file), out, read(full_file), additions_of(_results()))
    kept = anndata.read_h5ad(out).uns["rank_genes_groups"]
    np.testing.assert_equal(kept, markers)


def test_results_are_added_to_a_file_of_an_old_layout(cells, tmp_path):
    """Before anndata 0.7 obs was one table; such a file is read and written anew."""
    path, out = tmp_path / "old.h5ad", tmp_path / "out.h5ad"
    names = np.array([f"c{i}".encode() for i in range(4)])
    genes = np.array([f"g{i}".encode() for i in range(3)])
    with h5py.File(path, "w") as file:
        file["X"] = np.arange(12, dtype="f4").reshape(4, 3)
        file["obs"] = np.rec.fromarrays([names, np.arange(4)], names=["index", "n"])
        file["var"] = np.rec.fromarrays([genes], names=["index"])
    results = _results(embedding=np.ones((4, 2)), clusters=np.zeros(4, dtype=int), k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_annotated(Origin(path), out, read(path), additions_of(results))
    back = anndata.read_h5ad(out)
    assert list(back.obs["n"]) == [0, 1, 2, 3]
    assert list(back.obs["fedsc_cluster"]) == ["0"] * 4


def test_a_full_disk_leaves_nothing_and_ends_in_a_sentence(tiny_set, full_disk):
    (full_disk / "out.h5ad").write_bytes(b"old")
    with pytest.raises(RunError, match=r"cannot write .*out\.h5ad: No space left"):
        write_annotated(
            Origin(tiny_set), full_disk / "out.h5ad", read(tiny_set), additions_of(_results())
        )
    assert [path.name for path in full_disk.iterdir()] == ["out.h5ad"]
    assert (full_disk / "out.h5ad").read_bytes() == b"old"


def test_what_reading_did_not_look_at_is_checked_before_it_is_copied(cells, tmp_path):
    path = tmp_path / "in.h5ad"
    cells.obsm["X_pca"] = np.ones((96, 2))
    cells.write_h5ad(path)
    expression = read(path)
    with h5py.File(path, "r+") as file:
        del file["obsm/X_pca"]
        file.create_dataset("obsm/X_pca", (96, 10**12), "f4", chunks=(96, 100))
    with pytest.raises(DataError, match="/obsm/X_pca promises"):
        write_annotated(Origin(path), tmp_path / "out.h5ad", expression, Additions())
    with h5py.File(path, "r+") as file:
        del file["obsm/X_pca"]
        file["obsm/X_pca"] = np.ones((7, 2))
    with pytest.raises(DataError, match="cannot be read"):
        write_annotated(Origin(path), tmp_path / "out.h5ad", expression, Additions())


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_who_may_read_a_copy_is_as_the_umask_says(tiny_set, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_annotated(Origin(tiny_set), tmp_path / "copy.h5ad", read(tiny_set), Additions())
    finally:
        os.umask(before)
    assert (tmp_path / "copy.h5ad").stat().st_mode & 0o777 == mode
