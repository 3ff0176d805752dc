"""The end of a run with real labs, each with a file of its own: clusters, copies, scores."""

import html
import json
import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, MetricRecord

from client_app import app as client
from deployment.status import read_log
from fedsc.clusters import load_clusters
from fedsc.config import Config
from fedsc.errors import ConfigError, RunError
from fedsc.model import load_model
from simulations.inprocess import run_inprocess

OURS = ["fedsc_cluster", "fedsc_type", "fedsc_type_share", "fedsc_distance"]


@pytest.fixture(scope="module")
def lead(lead):
    """Lead a run; give its folder."""
    return lambda config, nodes, app=client: lead(config, nodes, app=app).folder


@pytest.fixture
def tiny(tiny, change):
    """Wait for both of the real labs."""
    return change(tiny, wait_for_labs=2)


@pytest.fixture
def quick(tiny, change):
    """Train nothing, where what is clustered does not matter."""
    return change(tiny, method="fedpca")


def split(tiny_set, folder):
    """Split the set into two labs of unlike size and mix, with more in them than we need."""
    cells = anndata.read_h5ad(tiny_set)
    cells.uns["mine"] = "kept"
    cells.obsm["X_mine"] = np.ones((96, 2))
    labs = folder / "labs"
    labs.mkdir()
    for name, rows in (("A", slice(0, 40)), ("B", slice(40, 96))):
        cells[rows].copy().write_h5ad(labs / f"{name}.h5ad")
    return labs


@pytest.fixture
def files(tiny_set, tmp_path):
    return split(tiny_set, tmp_path)


@pytest.fixture(scope="module")
def finished(tiny_run, tiny_set, lead, tmp_path_factory):
    """Give the folder of a finished run and the labs' files; only read them."""
    root = tmp_path_factory.mktemp("finished")
    files = split(tiny_set, root)
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    folder = lead(tiny_run.replace(output=str(root / "runs"), wait_for_labs=2), nodes_of(files))
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
    return folder, files


def nodes_of(files, **more):
    return [
        {"lab": name, "data": str(files / f"{name}.h5ad"), "state": str(files.parent / name)} | more
        for name in "AB"
    ]


def copy_of(files, name):
    return anndata.read_h5ad(files.parent / name / "run" / f"{name}.fedsc.h5ad")


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


def test_each_lab_gets_a_copy_of_its_file_with_the_clusters_of_all(finished):
    folder, files = finished
    model = load_model(folder)
    clusters = load_clusters(folder, model)
    assert clusters.sizes.sum() == 96
    assert (np.diff(clusters.sizes) <= 0).all()  # the largest first
    names = [str(cluster) for cluster in range(clusters.k)]
    counted = np.zeros(clusters.k, dtype=int)
    for name, n_cells in (("A", 40), ("B", 56)):
        copy, original = copy_of(files, name), anndata.read_h5ad(files / f"{name}.h5ad")
        assert copy.obsm["X_fedsc"].dtype == np.float32
        assert copy.obsm["X_fedsc"].shape == (n_cells, 60)
        assert list(copy.obs["fedsc_cluster"].cat.categories) == names
        codes = copy.obs["fedsc_cluster"].cat.codes.to_numpy()
        np.testing.assert_array_equal(codes, clusters.assign(copy.obsm["X_fedsc"]))
        counted += np.bincount(codes, minlength=clusters.k)
        assert list(copy.obs["fedsc_type"]) == [clusters.types[code] for code in codes]
        np.testing.assert_array_equal(copy.obs["fedsc_type_share"], clusters.shares[codes])
        # Nothing else has changed.
        assert (copy.X != original.X).nnz == 0
        assert copy.uns["mine"] == "kept"
        assert copy.obs.drop(columns=OURS).equals(original.obs)
        about = copy.uns["fedsc"]
        told = (about["run"], about["method"], about["k"], about["labs"])
        assert told == ("run", "fedsc", clusters.k, 2)
        assert about["file"] == f"{name}.h5ad"
        assert (about["clusters"], about["resolution"]) == ("graph of the pool", 0.4)
        assert len(about["model"]) == 16
    np.testing.assert_array_equal(counted, clusters.sizes)
    assert copy_of(files, "A").uns["fedsc"]["model"] == copy_of(files, "B").uns["fedsc"]["model"]
    assert model.method == "fedsc"
    assert not list(files.parent.rglob("*.partial"))
    assert "lab A has its results in a copy of its own file" in (folder / "run.log").read_text()
    assert str(files) not in (folder / "run.log").read_text()


def test_the_model_is_that_of_a_simulation_with_the_same_files(tiny, change, finished):
    real, files = finished
    simulated = change(tiny, dataset=str(files), run_name="simulated")
    run_inprocess(simulated)
    names = ("model.safetensors", "genes.csv", "clusters.safetensors", "markers.csv")
    for name in names:
        other = Path(tiny.run.output) / "simulated" / name
        assert (real / name).read_bytes() == other.read_bytes(), name
    both = scores_of(real), scores_of(Path(tiny.run.output) / "simulated")
    for way in ("graph", "kmeans", "integration", "questions", "warnings"):
        assert both[0][way] == both[1][way], way
    assert both[0]["pooled"] is None
    simulated = Path(tiny.run.output) / "simulated"
    assert not list(simulated.rglob("*.h5ad"))


def lying(kind, record):
    """Let lab B put a record of its own into the place of one of this kind."""

    def app(message, context):
        reply = client(message, context)
        if f"{kind}:B" in reply.content:
            reply.content[f"{kind}:B"] = record
        return reply

    return app


def test_a_run_of_real_labs_is_not_resumed_as_a_simulation(finished, tiny_set, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = sorted(path.name for path in folder.iterdir())
    options = json.loads((folder / "config.json").read_text())
    options |= {"resume": str(folder), "dataset": str(tiny_set), "output": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"the run was of real labs.*flwr run \. fedsc"):
        run_inprocess(Config.from_mapping(options))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_lab_that_embedded_other_cells_than_it_has_is_left_out_and_named(quick, lead, files):
    app = lying("embedded", MetricRecord({"cells": 55, "blank": 0}))
    folder = lead(quick, nodes_of(files), app)
    said, why = (folder / "run.log").read_text(), "embedded 55 cells, described itself with 56"
    assert f"going on without lab B: {why}" in said
    assert f"lab B could not write its results: {why}" in said
    assert load_clusters(folder, load_model(folder)).sizes.sum() == 40
    assert not (files.parent / "B" / "run" / "B.fedsc.h5ad").exists()


def test_a_lab_that_names_no_copy_does_not_count_as_served(quick, lead, files):
    folder = lead(quick, nodes_of(files), lying("finished", ConfigRecord({"copy": ""})))
    said = (folder / "run.log").read_text()
    assert "lab A has its results in a copy of its own file: A.fedsc.h5ad" in said
    assert "lab B could not write its results: it does not name the copy" in said
    assert "lab B has its results" not in said


def test_labs_without_a_file_are_named_where_people_read(quick, change, lead, files):
    app = lying("finished", ConfigRecord({"copy": ""}))
    folder = lead(change(quick, files=True), nodes_of(files), app)
    scores = scores_of(folder)
    assert scores["without_files"] == {"B": "it does not name the copy it should have written"}
    (warning,) = [w for w in scores["warnings"] if "no file" in w]
    assert "no file with the results at lab B (it does not name the copy" in warning
    assert f"in the lab: fedsc embed FILE --model {folder} -o OUT.h5ad" in warning
    assert warning in (folder / "run.log").read_text()
    report = html.unescape((folder / "report.html").read_text())
    assert warning in report
    assert "Each other lab has them in its own file" in report
    assert "Without a file: B." in report


@pytest.mark.slow
def test_iterations_of_k_means_are_told(quick, lead, files, monkeypatch):
    monkeypatch.setattr("server_app.clustering._SECONDS_OF_SILENCE", 0.0)
    folder = lead(quick, nodes_of(files))
    said = (folder / "run.log").read_text()
    assert "embedding the cells of 2 labs" in said
    assert "k-means: iteration 1, centres moved by " in said
    assert read_log(said).kmeans == int(re.findall("k-means: iteration ([0-9]+)", said)[-1])


@pytest.mark.parametrize("by", [pytest.param("graph", marks=pytest.mark.slow), "kmeans"])
def test_scores_are_those_of_the_copies(quick, change, lead, files, by):
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    scores = scores_of(lead(change(quick, cluster_by=by), nodes_of(files)))[by]
    pool = pd.concat([copy_of(files, name).obs for name in "AB"])
    types, clusters = pool["cell_type"].astype(str), pool["fedsc_cluster"].astype(str)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(types, clusters))
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(types, clusters))


def test_the_number_of_clusters_can_be_given_without_labels(quick, change, lead, files):
    config = change(quick, label_key="", cluster_by="kmeans", clusters=3)
    folder = lead(config, nodes_of(files))
    copy = copy_of(files, "A")
    assert list(copy.obs["fedsc_cluster"].cat.categories) == ["0", "1", "2"]
    assert (copy.uns["fedsc"]["clusters"], copy.uns["fedsc"]["k"]) == ("federated k-means", 3)
    assert "fedsc_type" not in copy.obs
    scores = scores_of(folder)["kmeans"]
    assert scores["k_from"] == "given"
    assert scores["ari"] is None
    assert -1 <= scores["simplified_silhouette"] <= 1


def test_without_labels_or_number_the_clusters_are_the_graphs(tiny, change, lead, files):
    config = change(tiny, label_key="", cluster_by="kmeans")
    folder = lead(config, nodes_of(files))
    scores, clusters = scores_of(folder), load_clusters(folder, load_model(folder))
    assert scores["kmeans"] is None
    assert scores["graph"]["clusters"] == clusters.k
    assert scores["graph"]["ari"] is None
    assert scores["floor"] is None
    (warning,) = scores["warnings"]
    assert "k is neither given (clusters = K) nor told by labels" in warning
    copy = copy_of(files, "B")
    np.testing.assert_array_equal(
        copy.obs["fedsc_cluster"].cat.codes, clusters.assign(copy.obsm["X_fedsc"])
    )
    assert copy.uns["fedsc"]["warnings"] == warning

    # As it says: the same run again, with a number.
    model = (folder / "model.safetensors").read_bytes()
    lead(change(config, clusters=2, resume=str(folder)), nodes_of(files))
    assert list(copy_of(files, "B").obs["fedsc_cluster"].cat.categories) == ["0", "1"]
    assert (folder / "model.safetensors").read_bytes() == model


def test_clusters_of_noise_are_not_given_without_a_word(tiny, change, lead, files):
    for path in files.glob("*.h5ad"):
        cells = anndata.read_h5ad(path)
        cells.X = np.random.default_rng(ord(path.stem[0])).poisson(3, cells.shape).astype("f4")
        cells.write_h5ad(path)
    config = change(tiny, method="fedpca", label_key="", resolution="2")
    (warning,) = scores_of(lead(config, nodes_of(files)))["warnings"]
    assert re.search(r"depend on the resolution \(2\): .* ARI of only 0\.[0-5]", warning)
    assert copy_of(files, "A").uns["fedsc"]["warnings"] == warning


@pytest.mark.parametrize("shared", [False, True])
def test_labs_without_a_name_of_a_type_in_common_are_warned_of(quick, lead, files, shared):
    cells = anndata.read_h5ad(files / "B.h5ad")
    names = {kind: f"Type {kind[-1]}" for kind in list(cells.obs["cell_type"].cat.categories)}
    if shared:
        del names["type3"]
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories(names)
    cells.write_h5ad(files / "B.h5ad")
    warnings = scores_of(lead(quick, nodes_of(files)))["warnings"]
    said = [w for w in warnings if "no two of the 2 annotated labs" in w]
    assert len(said) == (not shared)


@pytest.mark.slow
def test_stability_does_not_depend_on_what_else_is_asked(tiny, change, lead, files):
    config = change(tiny, method="fedpca", label_key="")

    def graph(resolution):
        name = f"run-{len(resolution)}"
        left = lead(change(config, resolution=resolution, run_name=name), nodes_of(files))
        return scores_of(left)["graph"]

    alone, among = graph("1"), graph("1,0.99,2")
    assert among["stability"] == alone["stability"]
    assert [found["resolution"] for found in among["resolutions"]] == [0.99, 2]
    assert alone["resolutions"] == []
    assert {**among, "resolutions": []} == alone


def test_more_clusters_than_cells_are_refused_before_any_work(quick, change, lead, files):
    config = change(quick, clusters=97)
    with pytest.raises(ConfigError, match="option clusters = 97: the labs have 96 cells"):
        lead(config, nodes_of(files))
    assert not (Path(quick.run.output) / "run" / "preprocessing.json").exists()


def test_more_clusters_than_the_cells_that_are_left_cost_k_means_alone(quick, change, lead, files):
    app = lying(
        "embedded", MetricRecord({"cells": 55, "blank": 0})
    )  # B, with 56 cells, is left out
    scores = scores_of(lead(change(quick, label_key="", clusters=50), nodes_of(files), app))
    assert scores["kmeans"] is None
    assert any("clusters = 50, and 40 cells are left" in warning for warning in scores["warnings"])


def test_cell_types_that_no_cell_has_are_no_clusters(quick, lead, files):
    def app(message, context):
        reply = client(message, context)
        if "about:B" in reply.content:
            reply.content["about:B"]["types"] += b"\na\nb\nc\nd\ne\nf"
        return reply

    scores = scores_of(lead(quick, nodes_of(files), app))["kmeans"]
    assert (scores["clusters"], scores["k_from"]) == (4, "the 4 cell types the labs name")


@pytest.mark.slow
def test_any_format_gives_an_h5ad_in_the_folder_the_lab_names(quick, change, lead, files, tmp_path):
    cells = anndata.read_h5ad(files / "A.h5ad")
    table = pd.DataFrame(cells.X.toarray(), index=cells.obs_names, columns=cells.var_names)
    table.to_csv(files / "A.csv")
    nodes = nodes_of(files, output=str(tmp_path / "results"))
    nodes[0]["data"] = str(files / "A.csv")
    lead(change(quick, label_key="", clusters=2), nodes)
    copy = anndata.read_h5ad(tmp_path / "results" / "A.fedsc.h5ad")
    np.testing.assert_array_equal(copy.X.toarray(), table.to_numpy())
    assert list(copy.obs_names) == list(cells.obs_names)
    assert copy.obs["fedsc_cluster"].notna().all()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "A.fedsc.h5ad",
        "A.fedsc.html",
        "B.fedsc.h5ad",
        "B.fedsc.html",
    ]


@pytest.mark.slow
def test_an_interrupted_write_leaves_the_old_copy_and_the_next_replaces_it(
    quick, change, lead, files
):
    folder = lead(quick, nodes_of(files))
    mine = files.parent / "A" / "run"
    old = (mine / "A.fedsc.h5ad").read_bytes()
    (mine / ".A.fedsc.h5ad.partial").write_bytes(b"killed while writing")
    lead(change(quick, resume=str(folder), cluster_by="kmeans", clusters=2), nodes_of(files))
    assert (mine / "A.fedsc.h5ad").read_bytes() != old
    assert list(copy_of(files, "A").obs["fedsc_cluster"].cat.categories) == ["0", "1"]
    assert not list(mine.glob(".*partial"))


@pytest.mark.slow
def test_a_full_disk_at_one_lab_is_told_and_the_run_ends_with_scores(quick, lead, files, full_disk):
    nodes = nodes_of(files)
    nodes[0]["output"] = str(full_disk)
    folder = lead(quick, nodes)
    assert scores_of(folder)["graph"]["ari"] is not None
    log = (folder / "run.log").read_text()
    assert "lab A could not write its results" in log
    assert "No space left on device; free some space" in log
    assert "No space left on device" in scores_of(folder)["without_files"]["A"]
    assert sorted(p.name for p in files.parent.rglob("*.fedsc.h5ad*")) == ["B.fedsc.h5ad"]


@pytest.mark.slow
def test_the_labs_file_is_never_taken_for_the_copy(quick, lead, files):
    (files / "A.h5ad").rename(files / "A.fedsc.h5ad")
    (files / "out").mkdir()
    (files / "out" / "A.fedsc.fedsc.h5ad").hardlink_to(files / "A.fedsc.h5ad")
    nodes = nodes_of(files, output=str(files / "out"))
    nodes[0]["data"] = str(files / "A.fedsc.h5ad")
    before = (files / "A.fedsc.h5ad").read_bytes()
    folder = lead(quick, nodes)
    assert (files / "A.fedsc.h5ad").read_bytes() == before
    assert "is the lab's file itself" in (folder / "run.log").read_text()


def test_a_lab_that_is_lost_while_clustering_is_left_out_and_told(quick, lead, files):
    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "query.embed" and context.node_config["lab"] == "A":
            raise MemoryError
        return reply

    folder = lead(quick, nodes_of(files), app)
    assert scores_of(folder)["graph"]["ari"] is not None
    assert "going on without lab A" in (folder / "run.log").read_text()
    assert copy_of(files, "B").uns["fedsc"]["labs"] == 1


@pytest.mark.slow
def test_a_run_resumed_without_a_lab_keeps_the_genes_all_agreed_on(tiny, change, lead, files):
    def app(message, context):
        if message.metadata.message_type == "train" and message.metadata.group_id == "2":
            raise MemoryError
        return client(message, context)

    with pytest.raises(RunError, match="0 valid updates"):
        lead(tiny, nodes_of(files), app)
    folder = lead(
        change(tiny, resume=str(Path(tiny.run.output) / "run"), wait_for_labs=1),
        nodes_of(files)[:1],
    )  # B is away
    lead(change(tiny, run_name="undisturbed"), nodes_of(files))
    other = Path(tiny.run.output) / "undisturbed"
    assert (folder / "genes.csv").read_bytes() == (other / "genes.csv").read_bytes()
    assert (folder / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_lab_that_comes_to_a_resumed_run_is_said_to_have_no_part_in_its_statistics(
    quick, change, lead, files
):
    alone = lead(change(quick, wait_for_labs=1), nodes_of(files)[:1])
    assert not [text for text in warnings_of(alone) if "came after" in text]
    both = lead(change(quick, resume=str(alone)), nodes_of(files))
    (warning,) = (text for text in warnings_of(both) if "came after" in text)
    assert warning.startswith("lab B came after genes and statistics were agreed on")
    assert "by those of A; only a new run" in warning
    assert (both / "run.log").read_text().count(warning) == 2  # in time, and at the end


def warnings_of(folder):
    return json.loads((folder / "scores.json").read_text())["warnings"]


def test_labs_of_unlike_panels_of_which_one_is_annotated_get_the_same_kind_of_file(
    tiny, change, files, lead
):
    """Each measured genes the other did not, and only A names a column of cell types."""
    for name, genes in (("A", slice(0, 56)), ("B", slice(6, 60))):
        cells = anndata.read_h5ad(files / f"{name}.h5ad")[:, genes].copy()
        if name == "B":
            del cells.obs["cell_type"]
        cells.write_h5ad(files / f"{name}.h5ad")
    nodes = nodes_of(files)
    nodes[0]["label-key"] = "cell_type"
    config = change(tiny, method="fedpca", label_key="", genes="union", resolution=1.0)
    scores = scores_of(lead(config, nodes))
    assert scores["questions"]["graph"] <= 20
    assert scores["questions"]["clusters"] == 1  # markers and types
    copies = {name: copy_of(files, name) for name in "AB"}
    for copy in copies.values():
        assert copy.obs["fedsc_cluster"].notna().all()
        names = tuple(copy.obs["fedsc_cluster"].cat.categories)
        assert copy.uns["rank_genes_groups"]["names"].dtype.names == names
    of_all = pd.concat([copy.obs["fedsc_cluster"] for copy in copies.values()])
    assert sorted(of_all.value_counts(), reverse=True) == scores["graph"]["sizes"]
    # B has its types from A.
    assert set(copies["B"].obs["fedsc_type"]) <= {"type0", "type1", "type2", "type3", "unknown"}
    assert set(copies["B"].obs["fedsc_type"]) - {"unknown"}
