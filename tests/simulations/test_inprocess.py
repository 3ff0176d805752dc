"""The whole app, ServerApp and ClientApp, on the in-process grid: what a run is."""

import io
import json
import logging
from itertools import pairwise

import anndata
import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.logger import console_handler

from client_app import app as client
from fedsc.errors import ConfigError, RunError
from fedsc.evaluate import METRICS
from simulations.inprocess import InProcessGrid, run_inprocess


def test_a_run_leaves_a_complete_folder(undisturbed):
    folder = undisturbed.folder
    config = json.loads((folder / "config.json").read_text())
    assert (config["rounds"], config["label-key"]) == (3, "cell_type")
    rows = undisturbed.rows
    assert [(row["round"], row["lab"]) for row in rows] == [
        (round_, f"lab-{lab}") for round_ in (1, 2, 3) for lab in range(4)
    ]
    assert {"cells", "loss", "d", "mu", "seconds", "embedding_std"} < rows[0].keys()
    assert all(row["d"] is None and row["mu"] == 0 for row in rows[:4])
    assert all(row["d"] > 0 and 0 < row["mu"] <= 1 for row in rows[4:])
    scores = undisturbed.scores
    assert scores["config"] == config
    assert set(scores["pooled"]) == set(METRICS)
    assert -1 <= scores["pooled"]["ari"] <= 1
    assert undisturbed.weights["encoder.0.weight"].shape == (200, 30)
    genes = (folder / "genes.csv").read_text().splitlines()
    assert genes[0] == "gene,mean,std"
    assert len(genes) == 31
    assert "raw counts" in undisturbed.log


@pytest.mark.parametrize(("nodes", "backward"), [(1, False), (2, True), (4, False)])
def test_bits_do_not_depend_on_nodes_or_order_of_replies(tiny, lead, undisturbed, nodes, backward):
    left = lead(tiny, nodes, order=lambda m: m[::-1] if backward else m)
    assert left.model == undisturbed.model

    def decided(left):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in left.rows]

    assert decided(left) == decided(undisturbed)
    assert left.scores["pooled"] == undisturbed.scores["pooled"]
    assert left.scores["kmeans"] == undisturbed.scores["kmeans"]


@pytest.mark.slow
def test_bits_hold_where_the_pull_moves_weights_for_any_nodes_order_and_stop(
    unlabelled, change, lead, left_by
):
    """With 0 < μ < 1 the last bit of d reaches the model."""
    config = change(unlabelled, alpha=0.05, rounds=4)
    reference = lead(change(config, run_name="reference"), 1)
    assert all(0 < row["mu"] < 1 for row in reference.rows if row["round"] > 1)
    rng = np.random.default_rng(0)

    def shuffled(messages):
        return [messages[i] for i in rng.permutation(len(messages))]

    def stopping(round_):
        def app(message, context):
            if message.metadata.group_id == str(round_):
                raise RuntimeError("out of memory")
            return client(message, context)

        return app

    def decided(left):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in left.rows]

    found = [lead(change(config, run_name="nodes4"), 4, order=shuffled)]
    for round_ in (2, 4):
        stopped = change(config, run_name=f"stopped{round_}")
        with pytest.raises(RunError, match=f"round {round_}: 0 valid updates"):
            lead(stopped, app=stopping(round_), order=shuffled)
        found.append(lead(change(stopped, resume=str(left_by(stopped).folder)), order=shuffled))
    for left in found:
        assert left.model == reference.model
        assert decided(left) == decided(reference)


def test_run_inprocess_is_the_same_run(tiny, left_by, undisturbed):
    run_inprocess(tiny)
    assert left_by(tiny).model == undisturbed.model


def test_seed_moves_everything(tiny, change, lead, undisturbed):
    other = lead(change(tiny, seed=1))
    assert other.model != undisturbed.model
    losses = [[row["loss"] for row in left.rows] for left in (other, undisturbed)]
    assert not set(losses[0]) & set(losses[1])


def test_a_run_name_is_not_taken_twice(tiny, change, undisturbed):
    taken = change(tiny, output=str(undisturbed.folder.parent))
    with pytest.raises(ConfigError, match="exists: resume"):
        run_inprocess(taken)


def test_what_flower_prints_for_us_has_no_escapes_and_each_line_once(tiny, lead, monkeypatch):
    """As in the log of a SuperLink, a container, or `flwr run . --stream | cat`."""
    screen = io.StringIO()
    monkeypatch.setattr(console_handler, "stream", screen)
    monkeypatch.setattr(console_handler, "colored", True)
    monkeypatch.setattr(console_handler, "level", logging.INFO)  # fedsc run turns it down
    lead(tiny)
    lines = screen.getvalue().splitlines()
    assert sum(line.startswith("INFO :      round ") for line in lines) == tiny.training.rounds
    assert "\x1b" not in screen.getvalue()
    assert all(line != after for line, after in pairwise(lines))


def test_grid_answers_an_exception_with_an_error(tiny):
    def broken(message, context):
        raise ValueError("boom")

    grid = InProcessGrid(broken, [{}], tiny)
    sent = Message(RecordDict(), dst_node_id=100, message_type="train", group_id="1")
    (reply,) = grid.send_and_receive([sent])
    assert isinstance(reply.error, Error)
    assert "boom" in reply.error.reason


def test_fraction_train_draws_labs_by_seed(unlabelled, change, lead):
    left = lead(change(unlabelled, fraction_train=0.5, rounds=6))
    drawn = [{row["lab"] for row in left.rows if row["round"] == r} for r in range(1, 7)]
    assert all(len(labs) == 2 for labs in drawn)
    assert len(set.union(*drawn)) == 4
    again = lead(change(unlabelled, fraction_train=0.5, rounds=6, run_name="again"))
    assert again.model == left.model


@pytest.mark.parametrize(
    "options", [{"scale": "lab"}, pytest.param({"local_norm": True}, marks=pytest.mark.slow)]
)
def test_per_lab_statistics_on_a_label_made_split_are_marked(tiny, change, lead, options):
    left = lead(change(tiny, rounds=1, **options))
    assert "leak" in left.scores["warnings"][0]
    assert "leak" in left.log
    by_donor = {"partition": "column", "partition_key": "donor", "run_name": "donors"}
    warnings = lead(change(tiny, rounds=1, **options, **by_donor)).scores["warnings"]
    assert not any("leak" in warning for warning in warnings)


def test_encoders_of_their_own_are_scored_in_the_labs_alone(tiny, change, lead):
    left = lead(change(tiny, local_norm=True, partition="iid", rounds=1))
    assert left.scores["pooled"] is None
    assert -1 <= left.scores["kmeans"]["ari"] <= 1


def test_a_folder_of_files_is_one_lab_each_also_with_other_genes(tiny, change, lead, tmp_path):
    import anndata

    whole = anndata.read_h5ad(tiny.data.dataset)
    (tmp_path / "labs").mkdir()
    whole[:40, :50].copy().write_h5ad(tmp_path / "labs" / "A.h5ad")
    whole[40:, 10:].copy().write_h5ad(tmp_path / "labs" / "B.h5ad")
    for genes, measured in (("intersection", 40), ("union", 60)):
        config = change(tiny, dataset=str(tmp_path / "labs"), genes=genes, run_name=genes, rounds=1)
        left = lead(config)
        assert {row["lab"] for row in left.rows} == {"A", "B"}
        assert len((left.folder / "vocabulary.txt").read_text().splitlines()) == measured
        assert left.scores["pooled"]["ari"] is not None


def test_a_lab_that_is_refused_is_named_where_scores_are_read(tiny, change, lead, tmp_path):
    labs = tmp_path / "labs"
    labs.mkdir()
    cells = anndata.read_h5ad(tiny.data.dataset)
    for name, rows in (("A", slice(0, 46)), ("B", slice(46, 93)), ("small", slice(93, 96))):
        cells[rows].copy().write_h5ad(labs / f"{name}.h5ad")
    left = lead(change(tiny, dataset=str(labs), method="fedpca", min_cells=10, files=True))
    (warning,) = left.scores["warnings"]
    assert warning == "not in this run: lab small has 3 cells, fewer than min-cells = 10"
    assert list(left.scores["labs"]) == ["A", "B"]
    assert sorted(path.name for path in (left.folder / "labs").glob("*.h5ad")) == [
        "A.h5ad",
        "B.h5ad",
    ]


def test_cells_without_a_label_are_embedded_but_not_scored(tiny, change, lead, tmp_path):
    import anndata

    cells = anndata.read_h5ad(tiny.data.dataset)
    cells.obs.loc[cells.obs_names[:20], "cell_type"] = np.nan
    cells.write_h5ad(tmp_path / "part.h5ad")
    config = change(tiny, dataset=str(tmp_path / "part.h5ad"), partition="iid", rounds=1)
    scores = lead(config).scores
    assert scores["pooled"]["ari"] is not None
    assert scores["kmeans"]["ari"] is not None


def test_without_labels_scores_are_null(tiny, change, lead):
    config = change(tiny, label_key="", partition="iid", rounds=1)
    scores = lead(config).scores
    assert set(scores["pooled"].values()) == {None}
    assert scores["kmeans"] is None
    assert scores["graph"]["ari"] is None
    assert scores["graph"]["clusters"] > 0


def test_a_reference_list_decides_the_genes(tiny, change, lead, tmp_path):
    reference = tmp_path / "genes.txt"
    reference.write_text("\n".join(f"TP{i}" for i in range(20, 50)) + "\n")
    config = change(tiny, genes="reference", reference_genes=str(reference), n_genes=12, rounds=1)
    vocabulary = (lead(config).folder / "vocabulary.txt").read_text().split()
    assert sorted(vocabulary) == sorted(f"TP{i}" for i in range(20, 50))
