"""What two real labs find in the copies of their files, of other panels and columns each."""

import html
import json
import re
import shlex
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from flwr.common.config import parse_config_args

from client_app import app as client
from client_app import labs
from fedsc.config import OF_SIMULATION, Config
from fedsc.report.run import report_of
from fedsc.results import load
from protocol.records import FINISH

PANELS = {"A": slice(0, 50), "B": slice(10, 60)}
CELLS = {"A": slice(0, 56), "B": slice(56, 96)}


def split(tiny_set, folder):
    """Lab A has its counts in a layer and its types in a column of its own; B has no types."""
    whole = anndata.read_h5ad(tiny_set)
    made = {name: whole[CELLS[name], PANELS[name]].copy() for name in "AB"}
    made["A"].layers["counts"] = made["A"].X.copy()
    made["A"].X = made["A"].X.log1p()
    made["A"].obs = made["A"].obs.rename(columns={"cell_type": "annotation"})
    made["A"].var_names = [f"tp{gene[2:]}" for gene in made["A"].var_names]  # in its own spelling
    made["B"].obs = made["B"].obs[["donor"]]
    for name, cells in made.items():
        cells.write_h5ad(folder / f"{name}.h5ad")
    made["A"].var_names = [f"TP{gene[2:]}" for gene in made["A"].var_names]
    made["A"].write_h5ad(folder / "A.h5ad")
    return folder


@pytest.fixture
def files(tiny_set, tmp_path):
    return split(tiny_set, tmp_path)


def nodes_of(files):
    own = {"A": {"label-key": "annotation", "layer": "counts"}, "B": {}}
    return [
        {"lab": name, "data": str(files / f"{name}.h5ad"), "state": str(files / name), **more}
        for name, more in own.items()
    ]


@pytest.fixture
def config(tiny, change):
    return change(tiny, method="fedpca", label_key="", wait_for_labs=2)


def copy_of(files, name):
    return anndata.read_h5ad(files / name / "run" / f"{name}.fedsc.h5ad")


@pytest.fixture(scope="module")
def finished(tiny_run, tiny_set, lead, tmp_path_factory):
    """Give what a run has left and the two labs' copies; only read them."""
    folder = split(tiny_set, tmp_path_factory.mktemp("finished"))
    config = tiny_run.replace(
        method="fedpca", label_key="", wait_for_labs=2, files=True, output=str(folder / "runs")
    )
    left = lead(config, nodes_of(folder))
    return left, {name: copy_of(folder, name) for name in "AB"}


def test_both_labs_get_clusters_types_and_markers(finished, tiny_set, monkeypatch):
    left, copies = finished
    truth = anndata.read_h5ad(tiny_set).obs["cell_type"].astype(str)
    for name, copy in copies.items():
        assert {"fedsc_cluster", "fedsc_type", "fedsc_type_share"} <= set(copy.obs)
        told = {key: copy.uns["fedsc"][key] for key in ("layer", "symbols", "fold-case")}
        assert told == {"layer": "counts" * (name == "A"), "symbols": "", "fold-case": False}
        # B is not annotated, and gains what A knows.
        types = copy.obs["fedsc_type"].astype(str)
        assert (types == truth[copy.obs_names]).mean() > 0.9
        assert copy.obs["fedsc_type_share"].between(0.5, 1).all()
        # Its own report lies beside it; the server has one of the run that knows no cell.
        page = (left.folder.parents[1] / name / "run" / f"{name}.fedsc.html").read_text()
        assert f"Lab {name} brought {copy.n_obs} of the 96 cells" in page
    assert "Each lab has them in its own file" in (left.folder / "report.html").read_text()
    # Options that make a simulation's labs say nothing of these.
    told = {"method", "seed", "min-cells"}
    not_told = {*OF_SIMULATION, "output", "resume"}
    for copy in copies.values():
        assert told <= copy.uns["fedsc"]["options"].keys()
        assert not not_told & copy.uns["fedsc"]["options"].keys()
    # A cluster has the same type everywhere.
    both = pd.concat([copy.obs for copy in copies.values()])
    assert (both.groupby("fedsc_cluster", observed=True)["fedsc_type"].nunique() == 1).all()
    clusters = [list(copy.obs["fedsc_cluster"].cat.categories) for copy in copies.values()]
    assert clusters[0] == clusters[1]

    # Markers: scanpy reads and draws them, by names the file has.
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    for name, copy in copies.items():
        table = sc.get.rank_genes_groups_df(copy, group=None)
        assert set(table["group"]) == set(clusters[0])
        assert set(table["names"]) == {f"TP{i}" for i in range(10, 50)}  # what both have measured
        for cluster in clusters[0]:
            kind = set(copy.obs["fedsc_type"][copy.obs["fedsc_cluster"] == cluster])
            best = table[table["group"] == cluster].iloc[0]
            if kind and (number := int(kind.pop().removeprefix("type"))) in (1, 2):
                assert int(best["names"].removeprefix("TP")) // 12 == number
                assert best["pvals_adj"] < 1e-3
        axes = sc.pl.rank_genes_groups(copy, n_genes=5, show=False)
        assert len(axes) == len(clusters[0]), name

    scores = left.scores
    assert set(scores["questions"]) == {"expression", "cells", "graph", "kmeans", "clusters"}
    assert scores["questions"]["clusters"] == 1  # markers and types
    assert scores["questions"]["graph"] <= 20
    assert scores["integration"] == {"asked": "none", "done": False}
    # Only A's cells have labels to be held against.
    assert scores["graph"]["ari"] > 0.8
    assert scores["graph"]["labs"] == [2] * len(clusters[0])
    markers = pd.read_csv(left.folder / "markers.csv")
    assert set(markers["cluster"].astype(str)) == set(clusters[0])


def test_a_report_repeats_and_resumes_a_run_of_real_labs_as_a_deployment_does(finished, tmp_path):
    left, _ = finished
    made = json.loads((left.folder / "config.json").read_text())

    def options_of(command):
        *start, settings = shlex.split(html.unescape(command))
        assert start == ["flwr", "run", ".", "fedsc", "--run-config"]
        given = parse_config_args([settings])
        assert not given.keys() & set(OF_SIMULATION)
        return Config.from_mapping(given).to_mapping()

    def other(options):
        return {n for n, v in options.items() if v != made[n]} - {*OF_SIMULATION, "run-name"}

    (command,) = re.findall(r"<pre><code>(.*)</code></pre>", report_of(load(left.folder)))
    assert other(options_of(command)) == set()

    folder = tmp_path / "run"
    shutil.copytree(left.folder, folder)
    (folder / "scores.json").unlink()
    (command,) = re.findall(r"some other options: (.*)</p>", report_of(load(folder)))
    options = options_of(command)
    assert options["resume"] == str(folder)
    assert other(options) == {"output", "resume"}


@pytest.mark.slow  # UMAP is compiled when first used
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
@pytest.mark.long
def test_a_type_has_the_same_place_on_both_labs_maps(config, change, files, lead):
    lead(change(config, draw_map=True), nodes_of(files))
    places = {}
    for name in "AB":
        copy = copy_of(files, name)
        assert copy.obsm["X_fedsc_umap"].shape == (copy.n_obs, 2)
        assert np.isfinite(copy.obsm["X_fedsc_umap"]).all()
        on_map = pd.DataFrame(copy.obsm["X_fedsc_umap"])
        places[name] = on_map.groupby(list(copy.obs["fedsc_type"])).mean()
    for kind, place in places["A"].iterrows():
        nearest = np.square(places["B"] - place).sum(axis=1).idxmin()
        assert nearest == kind


def test_markers_are_those_of_scanpy_on_the_pooled_cells(finished):
    left, copies = finished
    copies = {name: copy.copy() for name, copy in copies.items()}
    copies["A"].X = copies["A"].layers["counts"]
    pool = anndata.concat(list(copies.values()))  # genes that both have measured
    target = json.loads((left.folder / "preprocessing.json").read_text())["target_sum"]
    sc.pp.normalize_total(pool, target_sum=target)
    sc.pp.log1p(pool)
    pool.X = pool.X.astype(np.float64)
    pool.obs["fedsc_cluster"] = pd.Categorical(pool.obs["fedsc_cluster"])
    sc.tl.rank_genes_groups(pool, "fedsc_cluster", method="t-test")
    theirs = sc.get.rank_genes_groups_df(pool, group=None).set_index(["group", "names"])
    ours = sc.get.rank_genes_groups_df(copies["B"], group=None).set_index(["group", "names"])
    ours = ours.loc[theirs.index]
    np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours["logfoldchanges"], theirs["logfoldchanges"], atol=1e-3)


@pytest.mark.parametrize(
    "how",
    [
        "other cells of the same names",
        pytest.param("sorted anew", marks=pytest.mark.slow),
        pytest.param("a cell less", marks=pytest.mark.slow),
    ],
)
def test_a_file_changed_before_the_end_is_refused_and_gets_nothing(config, files, lead, how):
    """Nothing of another cell's is written: the lab is told, the other has its copy."""

    def changed(cells):
        order = np.arange(cells.n_obs)[::-1]
        if how == "a cell less":
            return cells[1:].copy()
        other = cells[order].copy()
        if how == "other cells of the same names":
            other.obs_names = cells.obs_names
        return other

    def app(message, context):
        labs._real_lab.cache_clear()  # Flower starts a process for every message
        if message.metadata.message_type == FINISH and context.node_config["lab"] == "A":
            changed(anndata.read_h5ad(files / "A.h5ad")).write_h5ad(files / "A.h5ad")
        return client(message, context)

    left = lead(config, nodes_of(files), app=app)
    assert "lab A could not write its results: the lab's file has changed since" in left.log
    assert left.log.count("could not write its results") == 1  # for good: it is not told again
    assert not list((files / "A").rglob("*.fedsc.h5ad"))
    assert copy_of(files, "B").obs["fedsc_cluster"].notna().all()


@pytest.mark.slow
def test_a_file_changed_before_clusters_are_counted_loses_the_lab_not_the_run(config, files, lead):
    """Labels of another order would be counted for other cells; so the lab does not answer."""
    asked = []

    def app(message, context):
        labs._real_lab.cache_clear()
        question = message.content.config_records.get("question", {})
        if question.get("subject") == "clusters" and not asked:
            asked.append(question["name"])
            cells = anndata.read_h5ad(files / "A.h5ad")
            cells[np.arange(cells.n_obs)[::-1]].copy().write_h5ad(files / "A.h5ad")
        return client(message, context)

    left = lead(config, nodes_of(files), app=app)
    assert "the lab's file has changed since its cells were embedded" in left.log
    assert left.scores["graph"]["clusters"] >= 1
    assert copy_of(files, "B").uns["fedsc"]["labs"] == 1


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"label-key": "celltype"}, "celltype"),
        ({"layer": "raw_counts"}, "raw_counts"),
    ],
)
def test_a_column_or_layer_of_its_own_that_is_none_keeps_a_lab_out(
    config, change, files, lead, own, words
):
    nodes = nodes_of(files)
    nodes[0] |= own
    left = lead(change(config, wait_for_labs=1), nodes)
    assert words in left.log
    assert copy_of(files, "B").uns["fedsc"]["labs"] == 1
