"""One run of a suite: its row, its cost, and that labels take no part in it."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import partitioning.simulation
from fedsc import integration, tensors
from fedsc.errors import DataError
from fedsc.evaluate import kmeans, scores
from fedsc.names import is_name
from partitioning import partition
from simulations.bench.cell import Cell, load_row, run_cell

FEDERATED = {
    "subtypes-per-lab": 2,
    "n-genes": 30,
    "min-shared-genes": 10,
    "batch-size": 8,
    "local-epochs": 1,
    "rounds": 2,
    "draw-map": False,
}
CENTRALISED = {
    "pca": {"k": "true"},
    "leiden": {},
    "nmf": {"k": "true"},
    "contrastive-sc": {"k": "true", "epochs": 2, "n-genes": 30},
}


def cell(method, dataset, seed=0, **options):
    chosen = CENTRALISED.get(method, FEDERATED) | options
    return Cell(
        method=method, dataset=str(dataset), label_key="cell_type", seed=seed, options=chosen
    )


@pytest.fixture
def poisoned(tiny_set, tmp_path):
    """Write the tiny set with its labels dealt anew."""
    cells = anndata.read_h5ad(tiny_set)
    labels = cells.obs["cell_type"].to_numpy()
    cells.obs["cell_type"] = np.random.default_rng(1).permutation(labels)
    path = tmp_path / "poisoned" / tiny_set.name
    path.parent.mkdir()
    cells.write_h5ad(path)
    return path


def test_a_federated_row_has_scores_cost_and_versions(tiny_set, tmp_path):
    run = cell("fedsc", tiny_set)
    row = run_cell(run, tmp_path)
    written = json.loads((tmp_path / run.key / "scores.json").read_text())["pooled"]
    assert {name: row[name] for name in written} == written
    assert row["k_is"] == "true k"
    assert row["cpu_seconds"] > 0
    assert row["peak_memory"] > 50e6
    assert row["torch"].startswith("2.")
    assert load_row(run, tmp_path) == row


def test_encoders_of_their_own_and_an_unknown_k_leave_a_row_without_scores(tiny_set, tmp_path):
    run = Cell(
        method="fedsc",
        dataset=str(tiny_set),
        seed=0,
        options=FEDERATED | {"partition": "iid", "local-norm": True},
    )
    row = run_cell(run, tmp_path)
    assert (row["ari"], row["nmi"]) == (None, None)
    assert row["graph_clusters"] > 0


def test_where_labs_are_batches_a_row_says_how_they_mix(tiny_set, tmp_path):
    donors = {"partition": "column", "partition-key": "donor", "integrate": "harmony"}
    run = cell("fedpca", tiny_set, **donors)
    row = run_cell(run, tmp_path)
    written = json.loads((tmp_path / run.key / "scores.json").read_text())
    assert row["graph_ari"] == written["graph"]["ari"]
    assert row["graph_clusters"] == written["graph"]["clusters"]
    assert row["questions"] == sum(written["questions"].values()) > 50
    # Of the embedding as labs have corrected it, against the direct way.
    labs, x, of_cells = ("donor0", "donor1", "donor2"), [], []
    whole = anndata.read_h5ad(tiny_set).obs
    for lab in labs:
        kept = tmp_path / run.key / "labs" / lab / "integration.safetensors"
        x.append(tensors.read(kept)[0]["corrected"])
        of_cells.append(whole[whole["donor"] == lab])
    table = pd.concat(of_cells)
    expected = integration.scores(
        np.concatenate(x), table["donor"].to_numpy(), table["cell_type"].to_numpy()
    )
    assert {name: row[name] for name in integration.METRICS} == expected
    # Scored after it, and the paper's score stands beside.
    types = table["cell_type"].to_numpy()
    found = scores(np.concatenate(x), kmeans(np.concatenate(x), len(set(types)), 0), types)
    assert {name: row[name] for name in found} == found == written["pooled_integrated"]
    assert written["pooled"] != found
    assert "ilisi" not in run_cell(cell("fedpca", tiny_set), tmp_path)


@pytest.mark.slow
def test_every_round_each_lab_gets_and_gives_one_set_of_weights(tiny_set, tmp_path):
    # Many rounds, as the number of questions about clusters is not the same in both runs.
    runs = cell("fedsc", tiny_set), cell("fedsc", tiny_set, rounds=22)
    # In two folders, or the second would begin with the rounds of the first.
    rows = [run_cell(run, tmp_path / run.key) for run in runs]
    weights = (tmp_path / runs[0].key / runs[0].key / "model.safetensors").stat().st_size
    for name in ("bytes_to_labs", "bytes_from_labs"):
        of_twenty_rounds = rows[1][name] - rows[0][name]
        assert of_twenty_rounds == pytest.approx(20 * 4 * weights, rel=0.1)


# scanpy's Leiden compiles for ten seconds, and tests/fedsc/baselines has it.
ALL = [pytest.param(m, marks=pytest.mark.slow) if m == "leiden" else m for m in CENTRALISED]


@pytest.mark.parametrize("method", ALL)
def test_a_centralised_row_has_scores_and_keeps_the_embedding(method, tiny_set, tmp_path):
    run = cell(method, tiny_set)
    row = run_cell(run, tmp_path)
    assert row["k_is"] == ("Leiden" if method == "leiden" else "true k")
    assert row["bytes_to_labs"] is None
    assert 0 <= row["nmi"] <= 1
    with np.load(tmp_path / run.key / "embedding.npz") as file:
        assert len(file["embedding"]) == len(file["clusters"]) == 96


def test_a_number_of_clusters_of_ones_own_is_not_called_the_true_one(tiny_set, tmp_path):
    assert run_cell(cell("pca", tiny_set, k=3), tmp_path)["k_is"] == "k = 3"


def test_an_upgrade_of_a_package_makes_another_cell(tiny_set, monkeypatch):
    run = cell("pca", tiny_set)
    before = run.key
    monkeypatch.setattr("simulations.bench.cell._packages", lambda: "torch 99")
    assert run.key != before
    assert run.name in run.key


def test_a_finished_cell_is_not_run_again(tiny_set, tmp_path):
    run = cell("pca", tiny_set)
    first = run_cell(run, tmp_path)
    (tmp_path / run.key / "embedding.npz").unlink()
    assert run_cell(run, tmp_path) == first
    assert not (tmp_path / run.key / "embedding.npz").exists()


@pytest.mark.slow
def test_a_killed_cell_goes_on_to_the_same_scores_and_does_not_claim_to_know_its_cost(
    tiny_set, tmp_path, monkeypatch
):
    run = cell("fedsc", tiny_set, rounds=4)
    whole = run_cell(run, tmp_path / "whole")

    class Killed(BaseException):
        pass

    import server_app.main

    save, saved = server_app.main.save_checkpoint, []

    def die_after_two(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise Killed

    monkeypatch.setattr(server_app.main, "save_checkpoint", die_after_two)
    with pytest.raises(Killed):
        run_cell(run, tmp_path / "killed")
    assert load_row(run, tmp_path / "killed") is None
    resumed = run_cell(run, tmp_path / "killed")
    assert len(saved) == 4
    assert_same_but_for_its_cost(resumed, whole)


def assert_same_but_for_its_cost(resumed, whole):
    cost = {"seconds", "cpu_seconds", "peak_memory", "bytes_to_labs", "bytes_from_labs"} | {
        "questions"
    }
    assert {resumed[name] for name in cost} == {None}
    assert resumed["resumed"]
    rest = whole.keys() - cost - {"resumed"}
    assert {name: resumed[name] for name in rest} == {name: whole[name] for name in rest}


@pytest.mark.slow
def test_a_cell_begins_with_the_longest_run_of_fewer_rounds_and_ends_as_from_nothing(
    tiny_set, tmp_path, monkeypatch
):
    longest = cell("fedsc", tiny_set, rounds=4)
    whole = run_cell(longest, tmp_path / "alone")
    sweep = tmp_path / "sweep"
    for rounds in (3, 1):  # the longest is not the last
        run_cell(cell("fedsc", tiny_set, rounds=rounds), sweep)
    kept = (sweep / cell("fedsc", tiny_set, rounds=3).key / "scores.json").read_bytes()

    import server_app.main

    save, saved = server_app.main.save_checkpoint, []
    monkeypatch.setattr(
        server_app.main, "save_checkpoint", lambda *a: (saved.append(1), save(*a))[1]
    )
    assert_same_but_for_its_cost(run_cell(longest, sweep), whole)
    assert len(saved) == 1
    assert (sweep / cell("fedsc", tiny_set, rounds=3).key / "scores.json").read_bytes() == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        ({}, {"local-epochs": 2}),
        ({"schedule": "cosine"}, {"schedule": "cosine"}),  # its rates depend on the rounds to come
    ],
)
def test_a_cell_does_not_begin_with_a_run_that_is_not_its_own(shorter, longer, tiny_set, tmp_path):
    run_cell(cell("fedsc", tiny_set, rounds=1, **shorter), tmp_path)
    assert not run_cell(cell("fedsc", tiny_set, rounds=2, **longer), tmp_path)["resumed"]


def test_keys_tell_apart_what_decides_a_result_and_nothing_else(tiny_set):
    keys = {
        cell("fedsc", tiny_set).key,
        cell("fedbyol", tiny_set).key,
        cell("fedsc", tiny_set, seed=1).key,
        cell("fedsc", tiny_set, rounds=3).key,
        cell("fedsc", "other.h5ad").key,
    }
    assert len(keys) == 5
    assert cell("fedsc", tiny_set).key == cell("fedsc", tiny_set).key


def test_an_objective_of_a_long_name_has_a_key_that_is_a_runs_name(tmp_path):
    longest = Cell(
        method="a_lab.of_long_names.some_objective:OBJECTIVE",
        dataset="young_human_kidney_5685_top2000",
        seed=2**32 - 1,
        options={},
    )
    assert is_name(longest.key)
    assert longest.key != longest.model_copy(update={"seed": 2**32 - 2}).key


@pytest.mark.parametrize("method", ["fedsc", "fedpca", *ALL])
def test_no_method_sees_labels(method, tiny_set, poisoned, tmp_path, monkeypatch):
    """Poison the labels of the same cells and the same labs: only ARI and NMI may change."""
    labs = {}
    partitioning.simulation.forget()  # of an earlier test with the same options

    def same_labs(whole, options, seed):
        if not labs:
            labs.update(partition(whole, options, seed))
        return labs

    monkeypatch.setattr(partitioning.simulation, "partition", same_labs)
    # A seed of its own: a process keeps the labs of the last set it split.
    runs = cell(method, tiny_set, seed=7), cell(method, poisoned, seed=7)
    rows = [run_cell(run, tmp_path) for run in runs]
    learnt = "embedding.npz" if runs[0].centralised else "model.safetensors"
    first, second = ((tmp_path / run.key / learnt).read_bytes() for run in runs)
    assert first == second
    for name in ("silhouette", "calinski_harabasz", "clusters"):
        assert rows[0][name] == rows[1][name]
    assert rows[0]["ari"] != rows[1]["ari"]


def test_scores_that_leak_labels_say_so(tiny_set, tmp_path):
    row = run_cell(cell("fedsc", tiny_set, scale="lab"), tmp_path)
    assert "leak" in row["warning"]
    assert run_cell(cell("fedsc", tiny_set), tmp_path)["warning"] == ""


def test_a_set_that_is_not_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        run_cell(cell("pca", "nowhere.h5ad"), tmp_path)
