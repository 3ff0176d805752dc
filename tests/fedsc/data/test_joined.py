"""Labs' files as one: from disk to disk as in memory, and never a matrix whole."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix, issparse

from fedsc.data import joined_matrices
from fedsc.data.joined import concat, write_joined
from fedsc.errors import DataError, RunError

CELLS, GENES = {"a": 40, "b": 25}, {"a": range(30), "b": range(10, 45)}


def make(folder, form=None, panels=GENES, dtype=np.float32):
    """Two labs' files with results; ``form`` makes X of counts, by lab."""
    form = form or {"a": csr_matrix, "b": csr_matrix}
    files = {}
    for seed, (lab, n_cells) in enumerate(CELLS.items()):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(0.5, (n_cells, len(panels[lab]))).astype(dtype)
        cells = anndata.AnnData(
            form[lab](counts),
            obs=pd.DataFrame(
                {"fedsc_cluster": pd.Categorical(["0"] * n_cells, ["0", "1"]), lab: 1.5},
                index=[f"c{i}" for i in range(n_cells)],
            ),
            var=pd.DataFrame({"n": list(panels[lab])}, index=[f"g{i}" for i in panels[lab]]),
        )
        cells.obsm["X_fedsc"] = rng.normal(size=(n_cells, 3))
        cells.uns["fedsc"] = {"model": "m"}
        cells.uns["rank_genes_groups"] = {"params": {"groupby": "fedsc_cluster"}}
        files[lab] = folder / f"{lab}.h5ad"
        cells.write_h5ad(files[lab], compression="gzip")
    return files


def change(file, function):
    cells = anndata.read_h5ad(file)
    function(cells)
    cells.write_h5ad(file)


def assert_same(one, other):
    assert issparse(one) == issparse(other)
    one, other = (x.toarray() if issparse(x) else np.asarray(x) for x in (one, other))
    np.testing.assert_array_equal(one, other)


def assert_joined_alike(files, output):
    expected = concat(files)
    assert write_joined(files, output) == expected.n_obs
    found = anndata.read_h5ad(output)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    assert_same(found.X, expected.X)
    assert found.X.dtype == expected.X.dtype
    assert set(found.layers) == set(expected.layers)
    for name, layer in expected.layers.items():
        assert_same(found.layers[name], layer)
    np.testing.assert_array_equal(found.obsm["X_fedsc"], expected.obsm["X_fedsc"])
    assert found.uns["fedsc"] == expected.uns["fedsc"]
    assert found.uns["fedsc"]["model"] == "m"
    assert "rank_genes_groups" in found.uns
    assert (found.raw is None) == (expected.raw is None)
    if expected.raw is not None:
        assert_same(found.raw.X, expected.raw.X)
        pd.testing.assert_frame_equal(found.raw.var, expected.raw.var)
    return found


FORMS = {
    "sparse": {"a": csr_matrix, "b": csr_matrix},
    "dense": {"a": np.asarray, "b": np.asarray},
    "by gene": {"a": csc_matrix, "b": csr_matrix},
    "mixed": {"a": np.asarray, "b": csr_matrix},
}


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("panels", [GENES, dict.fromkeys("ab", range(30))], ids=["other", "same"])
@pytest.mark.parametrize("form", FORMS)
def test_from_disk_to_disk_is_as_in_memory(tmp_path, monkeypatch, form, panels, dtype):
    monkeypatch.setattr(joined_matrices, "SLAB", 100)
    files = make(tmp_path, FORMS[form], panels, dtype)
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert list(found.obs["fedsc_lab"].cat.categories) == ["a", "b"]
    assert found.obs_names[0] == "c0-a"
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_layers_and_raw_are_joined(tmp_path, form):
    files = make(tmp_path, FORMS[form])

    def more(cells):
        cells.raw = cells.copy()
        cells.layers["half"] = cells.X / 2

    for file in files.values():
        change(file, more)
    change(files["b"], lambda cells: cells.layers.update(own=cells.X * 3))
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert set(found.layers) == {"half", "own"}
    assert found.raw.shape == (65, 45)


def told(**how):
    """Change a file's record of how the run read it."""
    return lambda cells: cells.uns["fedsc"].update(
        {name.replace("_", "-"): v for name, v in how.items()}
    )


def by_symbol(cells):
    """Name genes by id, and by symbol in a column."""
    cells.var["symbol"] = cells.var_names
    cells.var_names = [f"ENSG{i:011}" for i in range(cells.n_vars)]
    cells.uns["fedsc"]["symbols"] = "symbol"
    cells.uns["rank_genes_groups"] = {
        "params": {"groupby": "fedsc_cluster"},
        "names": np.rec.fromarrays(
            [np.array([cells.var_names[3]], object), np.array([cells.var_names[0]], object)],
            dtype=[("0", "O"), ("1", "O")],
        ),
        "pts": pd.DataFrame({"0": [0.5, 1.0]}, index=cells.var_names[[0, 3]]),
    }


def test_genes_have_the_names_the_run_knew_them_by(tmp_path):
    files, plain = make(tmp_path), tmp_path / "plain"
    plain.mkdir()
    expected = concat(make(plain))
    change(files["a"], by_symbol)
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert list(found.var_names) == list(expected.var_names)
    assert_same(found.X, expected.X)
    markers = found.uns["rank_genes_groups"]
    assert (markers["names"]["0"][0], markers["names"]["1"][0]) == ("g3", "g0")
    assert list(markers["pts"].index) == ["g0", "g3"]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_were_repaired_as_in_the_run(tmp_path):
    files = make(tmp_path, panels={"a": [1, 2, 3], "b": [1, 2, 4]})

    def spoil(cells):
        cells.var_names = ["g1", "g2", "g2"]
        cells.uns["fedsc"] |= {"make-unique": True, "fold-case": True}

    change(files["a"], spoil)
    change(files["b"], told(fold_case=True))
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert list(found.var_names) == ["G1", "G2", "G2-1", "G4"]


def test_versions_of_a_gene_id_are_one_gene(tmp_path):
    files = make(tmp_path, panels=dict.fromkeys("ab", range(2)))
    for lab, version in {"a": 7, "b": 12}.items():
        names = [f"ENSG00000000003.{version}", "ENSG00000000005"]
        change(files[lab], lambda cells, names=names: setattr(cells, "var_names", names))
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert list(found.var_names) == ["ENSG00000000003.7", "ENSG00000000005"]


@pytest.mark.parametrize("place", ["layer", "raw"])
@pytest.mark.parametrize("form", FORMS)
def test_x_holds_what_the_run_read_of_every_lab(tmp_path, monkeypatch, form, place):
    monkeypatch.setattr(joined_matrices, "SLAB", 100)
    files, plain = make(tmp_path, FORMS[form]), tmp_path / "plain"
    plain.mkdir()
    expected = concat(make(plain, FORMS[form]))

    def logs(cells):
        """Keep the counts elsewhere, and of ``raw`` all genes, of X some."""
        if place == "layer":
            cells.layers["counts"] = cells.X.copy()
        else:
            cells.raw = cells.copy()
        cells.X = np.log1p(cells.X)
        cells.uns["fedsc"]["layer"] = {"layer": "counts"}.get(place, place)

    change(files["a"], logs)
    if place == "raw":
        change(files["a"], lambda cells: cells._inplace_subset_var(slice(5, 20)))
    found = assert_joined_alike(files, tmp_path / "all.h5ad")
    assert not found.layers
    assert found.raw is None
    assert list(found.var_names) == list(expected.var_names)
    assert_same(found.X, expected.X)


@pytest.mark.parametrize("layer", ["counts", "raw"])
def test_values_that_are_no_longer_there_are_not_replaced_by_others(tmp_path, layer):
    files = make(tmp_path)
    change(files["b"], told(layer=layer))
    for join in (concat, lambda files: write_joined(files, tmp_path / "all.h5ad")):
        with pytest.raises(DataError, match="any more"):
            join(files)
    assert not (tmp_path / "all.h5ad").exists()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_that_repeat_in_labs_with_other_genes_are_refused(tmp_path):
    files = make(tmp_path)
    change(files["b"], lambda cells: setattr(cells, "var_names", ["g1"] * cells.n_vars))
    with pytest.raises(DataError, match="lab b names 34 genes twice"):
        concat(files)


def test_raw_of_one_lab_alone_is_left_out(tmp_path):
    files = make(tmp_path)
    change(files["a"], lambda cells: setattr(cells, "raw", cells.copy()))
    write_joined(files, tmp_path / "all.h5ad")
    assert anndata.read_h5ad(tmp_path / "all.h5ad").raw is None


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_no_more_than_a_block_is_read_at_a_time(tmp_path, monkeypatch, form):
    files = make(tmp_path, FORMS[form])
    monkeypatch.setattr(joined_matrices, "SLAB", 100)
    read, inside = [], h5py.Dataset.__getitem__

    def counted(self, *arguments, **options):
        values = inside(self, *arguments, **options)
        if self.name.startswith("/X") and not self.name.endswith("indptr"):
            read.append(np.size(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    write_joined(files, tmp_path / "all.h5ad")
    assert max(read) <= 100
    assert sum(read) > 700


def test_files_without_raw_or_x_as_anndata_writes_them(tmp_path):
    files = make(tmp_path)
    for file in files.values():
        change(file, lambda cells: setattr(cells, "X", None))
        with h5py.File(file, "r+") as content:
            anndata.io.write_elem(content, "raw", None)
            anndata.io.write_elem(content, "X", None)
    assert write_joined(files, tmp_path / "all.h5ad") == 65
    found = anndata.read_h5ad(tmp_path / "all.h5ad")
    assert (found.X, found.raw, found.shape) == (None, None, (65, 45))


def break_x(file, function):
    with h5py.File(file, "r+") as content:
        function(content)


def test_a_file_that_contradicts_itself_or_leads_elsewhere_is_refused(tmp_path):
    files, out = make(tmp_path), tmp_path / "all.h5ad"

    def narrow(content):
        content["X"].attrs["shape"] = np.array([25, 7])

    def short(content):
        del content["X"]
        content["X"] = np.ones((22, 35), np.float32)

    def beyond(content):
        content["X/indices"][0] = 99

    def elsewhere(content):
        del content["X"]
        content["X"] = h5py.ExternalLink(str(files["a"]), "X")

    for spoil, words in (
        (narrow, "/X is 25 × 7, but 25 cells and 35 genes have names"),
        (short, "/X is 22 × 35, but 25 cells"),
        (beyond, "damaged"),
        (elsewhere, "link"),
    ):
        make(tmp_path)
        break_x(files["b"], spoil)
        with pytest.raises(DataError, match=words):
            write_joined(files, out)
        assert not out.exists()


def test_a_full_disk_leaves_nothing(tmp_path, full_disk):
    files = make(tmp_path)
    with pytest.raises(RunError, match="No space left"):
        write_joined(files, full_disk / "all.h5ad")
    assert list(full_disk.iterdir()) == []
