"""What ``import fedsc`` gives to a notebook."""

import gc
import inspect
import subprocess
import sys
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import fedsc
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError, RunError

FEW = {"method": "fedpca", "n_genes": 30, "min_shared_genes": 10, "draw_map": False}


@pytest.fixture
def cells(tiny_set):
    return anndata.read_h5ad(tiny_set)


def test_importing_is_light():
    script = """
import sys, fedsc
heavy = ("torch", "flwr", "scanpy", "anndata", "numpy", "pandas", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_names_are_listed_and_others_are_refused():
    assert {"run", "load", "Run", "pp", "tl", "pl"} <= set(dir(fedsc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fedsc.nothing  # noqa: B018


def test_no_copy_of_the_cells_stays_in_memory_after_a_run(cells, tmp_path):
    def held():
        gc.collect()
        return {id(thing) for thing in gc.get_objects() if type(thing) in (Expression, AnnData)}

    before = held()
    run = fedsc.run({"A": cells[:50].copy(), "B": cells[50:].copy()}, output=tmp_path, **FEW)
    assert run.scores is not None
    assert held() <= before


def test_labs_in_memory_give_a_run_with_all_that_is_asked_of_it(cells, tmp_path, monkeypatch):
    cells.obsm["X_pca"] = np.ones((96, 2))
    cells.obs["note"] = ["old", "new"] * 48
    labs = {"A": cells[:50].copy(), "B": cells[50:].copy()}
    run = fedsc.run(labs, label_key="cell_type", output=tmp_path, **FEW)
    assert run.folder.parent == tmp_path
    assert list(run.labs) == ["A", "B"]
    with pytest.raises(KeyError, match="no file of lab 'C'; there are A, B"):
        run.labs["C"]
    assert run.labs.get("C") is None
    a = run.labs["A"]
    assert list(a.obs_names) == list(labs["A"].obs_names)
    assert {"X_pca", "X_fedsc"} <= set(a.obsm)
    assert {"fedsc_cluster", "fedsc_type", "fedsc_type_share", "fedsc_distance"} <= set(a.obs)
    assert a.uns["fedsc"]["options"]["method"] == "fedpca"
    assert a.uns["fedsc"]["coverage"]["share"] == 1.0
    assert a.uns["fedsc"]["versions"]["fedsc"] == fedsc.__version__
    assert len(a.uns["fedsc"]["model"]) == 16
    assert "X_fedsc" not in labs["A"].obsm
    assert labs["A"].obs["note"].dtype == cells.obs["note"].dtype

    scores = run.scores.set_index(["way", "floor"])
    assert scores.loc[("graph", False), "ari"] == run.record["graph"]["ari"]
    assert run.history.empty
    assert set(run.markers["cluster"].astype(str)) == set(a.obs["fedsc_cluster"].cat.categories)
    table = run.composition
    assert table.loc["A"].sum() == 50
    assert table.to_numpy().sum() == 96

    # The model places the same cells in the same clusters.
    again = run.embed(labs["A"])
    assert "X_fedsc" not in labs["A"].obsm
    assert list(again.obs["fedsc_cluster"]) == list(a.obs["fedsc_cluster"])
    np.testing.assert_allclose(again.obsm["X_fedsc"], a.obsm["X_fedsc"], atol=1e-5)
    np.testing.assert_allclose(again.obs["fedsc_distance"], a.obs["fedsc_distance"], atol=1e-5)
    in_place = labs["A"].copy()
    assert fedsc.tl.embed(in_place, run.folder) is None
    assert list(in_place.obs["fedsc_cluster"]) == list(again.obs["fedsc_cluster"])
    assert "fedsc_cluster" in fedsc.tl.embed(labs["B"], run, copy=True).obs
    assert "fedsc_cluster" not in labs["B"].obs

    # What scanpy makes of a lab's file.
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    sc.pp.neighbors(a, use_rep="X_fedsc", n_neighbors=5, method="gauss", transformer="sklearn")
    assert a.obsp["connectivities"].shape == (50, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own, about matplotlib
        sc.pl.embedding(a, "X_fedsc", color=["fedsc_cluster", "fedsc_type"], show=False)
        axes = sc.pl.rank_genes_groups(a, n_genes=3, show=False)
    assert len(axes) == len(a.obs["fedsc_cluster"].cat.categories)

    whole = run.concat()
    assert whole.n_obs == 96
    assert list(whole.obs["fedsc_lab"].cat.categories) == ["A", "B"]
    assert list(whole.obs_names) == list(cells.obs_names)
    assert list(whole.obs["fedsc_cluster"].cat.categories) == list(
        a.obs["fedsc_cluster"].cat.categories
    )


def test_labs_without_the_column_are_named_and_can_be_left_out(cells, tmp_path):
    bare = cells[50:].copy()
    del bare.obs["cell_type"]
    labs = {"A": cells[:50].copy(), "B": bare}
    with pytest.raises(ConfigError, match=r"lab B: obs has no column 'cell_type' \(label_key\)"):
        fedsc.run(labs, label_key="cell_type", output=tmp_path, **FEW)
    assert not list(tmp_path.iterdir())
    run = fedsc.run(labs, label_key={"A": "cell_type"}, output=tmp_path, **FEW)
    assert set(run.labs["B"].obs["fedsc_type"]) <= {*cells.obs["cell_type"], "unknown"}
    assert run.scores["ari"].notna().any()


def test_labs_that_name_genes_and_keep_counts_otherwise_are_joined_as_the_run_read_them(
    cells, tmp_path
):
    """Lab A has its genes' names in a column, and its counts in a layer."""
    own = cells[:50].copy()
    own.var["symbol"] = own.var_names
    own.var_names = [f"ENSG{i:011}" for i in range(own.n_vars)]
    own.layers["counts"] = own.X.copy()
    own.X = own.X.log1p()
    labs = {"A": own, "B": cells[50:].copy()}
    read = {"symbols": {"A": "symbol"}, "layer": {"A": "counts"}}
    run = fedsc.run(labs, **read, output=tmp_path, **FEW)
    assert run.labs["A"].uns["fedsc"]["symbols"] == "symbol"
    whole = run.concat()
    assert list(whole.var_names) == list(cells.var_names)
    assert (whole.X != cells.X).nnz == 0
    assert set(sc.get.rank_genes_groups_df(whole, None)["names"]) <= set(cells.var_names)
    again = run.embed(whole)  # the file is as the run read the labs', whatever their own names
    assert list(again.obs["fedsc_cluster"]) == list(whole.obs["fedsc_cluster"])


@pytest.mark.slow
def test_labs_toml_beside_a_lab_s_file_counts(cells, tmp_path):
    cells.layers["half"] = cells.X.copy()
    cells.X = cells.X * 2
    cells.write_h5ad(tmp_path / "lab one.h5ad")
    (tmp_path / "labs.toml").write_text('[lab-one]\nlayer = "half"\nlabel-key = "cell_type"\n')
    data = {"A": tmp_path / "lab one.h5ad", "B": cells}
    files = fedsc.run(data, layer={"B": "half"}, output=tmp_path / "runs", run_name="a", **FEW)
    same = fedsc.run({"A": cells, "B": cells}, layer="half", output=tmp_path / "runs", **FEW)
    assert files.model.digest == same.model.digest
    assert files.labs["A"].obs["fedsc_type"].notna().all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"label_key": {"C": "cell_type"}}, ConfigError, "label_key: there is no lab 'C'"),
        ({"batch_key": "batch"}, ConfigError, "lab A: obs has no column 'batch'"),
        ({"data": "cells.h5ad", "layer": {"A": "x"}}, ConfigError, "layer: names by lab go with"),
    ],
)
def test_names_that_do_not_fit_are_refused_in_words(cells, tmp_path, change, error, words):
    data = change.pop("data", {"A": cells})
    with pytest.raises(error, match=words):
        fedsc.run(data, output=tmp_path, **change, **FEW)


def test_cells_that_anndata_cannot_write_are_named(cells, tmp_path):
    cells.obs["odd"] = [{"a": 1}] * 96
    with pytest.raises(DataError, match="data: lab A: anndata cannot write these cells"):
        fedsc.run({"A": cells}, output=tmp_path, **FEW)


def test_cells_without_a_gene_of_the_model_are_told_wherever_they_are_placed(cells, tmp_path):
    counts = cells.X.toarray()
    counts[[3, 60, 61]] = 0
    cells.X = counts
    labs = {"A": cells[:50].copy(), "B": cells[50:].copy()}
    with pytest.warns(UserWarning, match="3 cells without a value"):
        run = fedsc.run(labs, output=tmp_path, **FEW)
    (told,) = (warning for warning in run.warnings if "without a value" in warning)
    assert told.startswith("3 cells without a value in any of the model's genes")
    assert any("model's genes: 1 of A, 2 of B" in entry.fields["message"] for entry in run.log)
    assert told in run.labs["A"].uns["fedsc"]["warnings"]
    with pytest.warns(UserWarning, match="2 cells without a value"):
        placed = run.embed(labs["B"])
    assert "2 cells without a value" in placed.uns["fedsc"]["warnings"]


def test_cells_are_embedded_as_those_of_a_lab_of_the_run_or_of_another(cells, tmp_path):
    labs = {"A": cells[:50].copy(), "B": cells[50:].copy()}
    with pytest.warns(UserWarning, match="though it may not help: mixing of labs"):
        run = fedsc.run(labs, integrate="harmony", output=tmp_path, **FEW)
    other = run.embed(labs["A"])
    assert "integrated as a new lab" in other.uns["fedsc"]["said"]
    (kept, _) = sorted(run.folder.rglob("*/integration.safetensors"))  # of A, of B
    same = run.embed(labs["A"], integration=kept)
    np.testing.assert_allclose(same.obsm["X_fedsc"], run.labs["A"].obsm["X_fedsc"], atol=1e-5)
    few = labs["A"][:, :30].copy()
    with pytest.warns(UserWarning, match="of the model's"):
        fedsc.tl.embed(few, run)


def test_cells_that_are_backed_are_read_and_what_is_no_cells_is_refused(cells, tmp_path):
    run = fedsc.run({"A": cells[:50].copy(), "B": cells[50:].copy()}, output=tmp_path, **FEW)
    cells.write_h5ad(tmp_path / "all.h5ad")
    backed = anndata.read_h5ad(tmp_path / "all.h5ad", backed="r")
    fedsc.tl.embed(backed, run)
    whole = fedsc.tl.embed(cells, run, copy=True)
    np.testing.assert_array_equal(backed.obsm["X_fedsc"], whole.obsm["X_fedsc"])
    with pytest.raises(DataError, match=r"an AnnData, but str"):
        fedsc.tl.embed("all.h5ad", run)


def test_a_lab_that_is_left_out_is_warned_of_with_the_reason(cells, tmp_path):
    cells.obs["chip"] = [None, *["a", "b", "c"] * 31, "a", "b"]
    labs = {"A": cells[:40].copy(), "B": cells[40:].copy()}
    with warnings.catch_warnings(record=True, action="always") as told:
        run = fedsc.run(labs, batch_key="chip", integrate="auto", output=tmp_path, **FEW)
    assert list(run.labs) == ["B"]
    assert [str(warning.message) for warning in told][:2] == [
        "not in this run: A: batch-key = 'chip': 1 of 40 cells have no value; fill them in, or "
        "name a column without gaps",
        "only one lab takes part (B): nothing is federated",
    ]
    assert told[0].filename == __file__


def test_labels_that_may_stand_for_none_are_warned_of(cells, tmp_path):
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({"type1": "nan"})
    labs = {"A": cells[:40].copy(), "B": cells[40:].copy()}
    with pytest.warns(UserWarning, match="counted as cell types: 'nan'; where a cell has no type"):
        run = fedsc.run(labs, label_key="cell_type", output=tmp_path, **FEW)
    assert len(run.warnings) == 1


def test_errors_name_labs_and_not_the_files_that_were_made_of_them(cells, tmp_path):
    bad = cells.copy()
    bad.X = -bad.X
    with pytest.raises(RunError, match=r"lab B: X holds [0-9,]+ negative values") as caught:
        fedsc.run({"A": cells, "B": bad}, output=tmp_path, **FEW)
    assert "fedsc-" not in str(caught.value)
    with pytest.raises(RunError, match=r"data: X holds [0-9,]+ negative values"):
        fedsc.run(bad, partition="iid", output=tmp_path, **FEW)


def test_one_set_is_split_by_a_column(cells, tmp_path):
    run = fedsc.run(cells, batch_key="donor", output=tmp_path, run_name="by-donor", **FEW)
    assert run.folder.name == "by-donor"
    for lab in ("donor0", "donor1", "donor2"):
        assert set(run.labs[lab].obs["donor"]) == {lab}
    assert run.scores["ari"].isna().all()  # no cell type is known


@pytest.mark.parametrize("options", [{}, {"partition": "dirichlet"}])
def test_one_set_without_types_is_told_how_it_can_be_split(cells, tmp_path, options):
    with pytest.raises(ConfigError, match=r"label_key=.*batch_key=.*partition=\"iid\""):
        fedsc.run(cells, output=tmp_path, **options, **FEW)
    assert not list(tmp_path.iterdir())


def test_paths_are_labs_and_files_are_left_out_where_nobody_wants_them(tiny_set, tmp_path):
    run = fedsc.run([tiny_set, str(tiny_set)], output=tmp_path, files=False, **FEW)
    assert list(run.labs) == []
    assert run.composition.empty
    with pytest.raises(DataError, match="made without"):
        run.concat()


@pytest.mark.parametrize(
    ("data", "words"),
    [({}, "no labs"), ({"a/b": "x.h5ad"}, "a/b"), (["x.csv"], "lab-0: x.csv is no .h5ad, .h5")],
)
def test_data_that_are_none_are_refused_in_words(data, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        fedsc.run(data, output=tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"config\.json is missing"):
        fedsc.load(tmp_path)


def test_signatures_name_every_keyword():
    for function in (fedsc.tl.pca, fedsc.tl.embed, fedsc.pp.highly_variable_genes):
        parameters = inspect.signature(function).parameters.values()
        assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
        assert "copy" in inspect.signature(function).parameters
        assert "Parameters" in function.__doc__


def test_genes_are_those_of_a_run(cells, tmp_path):
    labs = {"A": cells[:50, :55].copy(), "B": cells[50:, 5:].copy()}
    fedsc.pp.highly_variable_genes(labs, n_genes=20, min_shared_genes=50)
    run = fedsc.run(labs, output=tmp_path, **FEW | {"n_genes": 20})
    learnt = run.model.preprocessing
    for adata in labs.values():
        chosen = adata.var[adata.var["highly_variable"]]
        assert set(chosen.index) == set(learnt.genes)
        np.testing.assert_allclose(chosen["fedsc_mean"][list(learnt.genes)], learnt.mean)
        assert adata.var["fedsc_std"][~adata.var["highly_variable"]].isna().all()
    with pytest.raises(DataError, match="share 50 genes, min-shared-genes = 100"):
        fedsc.pp.highly_variable_genes(labs)
    with pytest.raises(DataError, match="cells by the name of the lab"):
        fedsc.pp.highly_variable_genes(cells)


def test_genes_of_raw_are_found_by_name_whatever_the_order_of_var(cells):
    def chosen(adata):
        return set(adata.var_names[adata.var["highly_variable"]])

    cells.raw = cells
    labs = {"same": cells.copy(), "turned": cells[:, ::-1].copy(), "few": cells[:, 7:30].copy()}
    for adata in labs.values():
        fedsc.pp.highly_variable_genes({"A": adata}, n_genes=20, layer="raw", min_shared_genes=1)
    expected = chosen(labs["same"])
    assert chosen(labs["turned"]) == expected
    assert chosen(labs["few"]) == expected & set(cells.var_names[7:30])
    assert labs["few"].var["fedsc_mean"].equals(labs["same"].var["fedsc_mean"][7:30])


def test_symbols_take_the_place_of_names_and_repeats_keep_theirs(cells):
    cells.var["symbol"] = ["a", "a", None, "b", *[f"s{i}" for i in range(4, 60)]]
    named = fedsc.pp.use_symbols(cells, "symbol", copy=True)
    assert list(named.var_names[:5]) == ["TP0", "TP1", "TP2", "b", "s4"]
    assert list(named.var["fedsc_own_name"]) == list(cells.var_names)
    with pytest.raises(DataError, match="no column 'gene'"):
        fedsc.pp.use_symbols(cells, "gene")


@pytest.mark.slow
def test_pictures_are_axes(cells, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    options = FEW | {"method": "fedsc", "rounds": 2, "batch_size": 8, "local_epochs": 1}
    labs = {"A": cells[:50].copy(), "B": cells[50:].copy()}
    run = fedsc.run(labs, output=tmp_path, **options)
    assert len(fedsc.pl.curves(run)) == 3
    bars = fedsc.pl.composition(run)
    assert len(bars.get_yticks()) == 2
    assert len(fedsc.pl.markers(run, n_genes=3)) == run.markers["cluster"].nunique()
    with pytest.raises(DataError, match="draw-map"):
        fedsc.pl.map(run)
    adata = run.labs["A"]
    with pytest.raises(DataError, match="X_fedsc_umap"):
        fedsc.pl.map(adata)
    adata.obsm["X_fedsc_umap"] = np.zeros((50, 2))
    assert fedsc.pl.map(adata, color="donor").get_title() == "donor (50 cells)"
    for lab in run.labs:  # as a run that drew a map leaves them
        placed = run.labs[lab]
        placed.obsm["X_fedsc_umap"] = np.zeros((placed.n_obs, 2))
        placed.obs["depth"] = np.linspace(0, 1, placed.n_obs)
        placed.write_h5ad(run.labs.path(lab))
    again = fedsc.load(run.folder)
    assert len(fedsc.pl.map(again, color="depth").collections) == 1
    for color in ("donor", "lab", "fedsc_cluster"):  # of the labs' own columns too
        assert fedsc.pl.map(again, color=color).get_title() == f"{color} (96 cells)"
    with pytest.raises(DataError, match=r"no column 'batch'.*fedsc_cluster.*lab.*donor"):
        fedsc.pl.map(again, color="batch")
    assert isinstance(run.history, pd.DataFrame)
    assert set(run.history["lab"]) == {"A", "B"}
