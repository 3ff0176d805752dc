"""The whole app, ServerApp and ClientApp, on the in-process grid."""

import errno
import io
import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.logger import console_handler

from client_app import app as client
from client_app import state as client_state
from fedsc.data.preprocess import transform
from fedsc.data.reading.read import read
from fedsc.errors import ConfigError, RunError
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.methods import METHODS, load_objective, method_of
from fedsc.rng import torch_generator
from fedsc.ssl.views import masked_view
from fedsc.training import batches
from protocol import records
from server_app import app as server
from server_app.checkpoint import load_checkpoint
from simulations.inprocess import InProcessGrid, run_inprocess


def run(config, nodes=2, app=client, order=list):
    """Run on a grid whose client or order of replies a test may replace; give the run folder."""
    grid = InProcessGrid(
        app,
        [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)],
        config,
        order,
    )
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_mapping()
    )
    server(grid, context)
    return folder_of(config)


def folder_of(config):
    from pathlib import Path

    run = config.run
    return Path(run.resume) if run.resume else Path(run.output) / run.name


def model_bytes(folder):
    return (folder / "model.safetensors").read_bytes()


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_complete_folder(tiny):
    folder = run(tiny)

    assert json.loads((folder / "config.json").read_text()) == tiny.to_mapping()
    rows = metrics(folder)
    assert [(row["round"], row["lab"]) for row in rows] == [
        (round_, f"lab-{lab}") for round_ in (1, 2, 3) for lab in range(4)
    ]
    assert {"cells", "loss", "d", "mu", "seconds", "embedding_std"} < rows[0].keys()
    assert all(row["d"] is None and row["mu"] == 0 for row in rows[:4])
    assert all(row["d"] > 0 and 0 < row["mu"] <= 1 for row in rows[4:])
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["config"] == tiny.to_mapping()
    assert set(scores["pooled"]) == {"ari", "nmi", "silhouette", "calinski_harabasz"}
    assert -1 <= scores["pooled"]["ari"] <= 1
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    assert weights["encoder.0.weight"].shape == (200, 30)
    genes = (folder / "genes.csv").read_text().splitlines()
    assert genes[0] == "gene,mean,std"
    assert len(genes) == 31
    assert "raw counts" in (folder / "run.log").read_text()


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("order", [list, lambda m: m[::-1]], ids=["forward", "backward"])
def test_bits_do_not_depend_on_nodes_or_order_of_replies(tiny, change, nodes, order):
    reference = run(change(tiny, run_name="reference"))
    folder = run(tiny, nodes, order=order)
    assert model_bytes(folder) == model_bytes(reference)

    def decided(folder):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in metrics(folder)]

    assert decided(folder) == decided(reference)


def test_seed_moves_everything(tiny, change):
    one = run(tiny)
    other = run(change(tiny, seed=1, run_name="other"))
    assert model_bytes(one) != model_bytes(other)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(tiny, change, method):
    folder = run(change(tiny, method=method, queue=16))
    assert json.loads((folder / "scores.json").read_text())["pooled"]["ari"] is not None
    assert all(np.isfinite(a).all() for a in safetensors.numpy.load_file(
        folder / "model.safetensors"
    ).values())  # fmt: skip


@pytest.mark.parametrize("pull", ["fedsc", "fedema", "constant", "none"])
def test_any_method_runs_with_any_pull(tiny, change, pull):
    folder = run(change(tiny, method="fedsimclr", pull=pull, alpha=1e-3))
    mus = [row["mu"] for row in metrics(folder) if row["round"] > 1]
    expected = {"none": lambda m: m == 0, "constant": lambda m: m == 0.5}
    assert all(expected.get(pull, lambda m: 0 < m < 1)(mu) for mu in mus)
    if pull == "fedema":
        first = [row["mu"] for row in metrics(folder) if row["round"] == 2]
        assert first == pytest.approx([0.7] * 4)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_one_lab_without_pull_is_plain_local_training(tiny, change):
    config = change(tiny, method="fedbyol", partition="iid", labs=1, rounds=3, local_epochs=2)
    folder = run(config)

    expression = read(config.data.dataset, label_key=config.data.label_key)
    cells = transform(expression, fit_preprocessing([expression], config.data))
    objective = load_objective(method_of(config.method))
    weights = objective.init(cells.n_genes, config.method, torch_generator(0, "init"))
    private = {}
    for round_ in (1, 2, 3):
        state = objective.begin(weights, private, cells.n_cells, config.method, torch.Generator())
        optimizer = torch.optim.SGD(  # made anew: momentum does not outlive a round
            state.trainable(), lr=0.032, momentum=0.5, weight_decay=5e-4, fused=True
        )

        def descend(loss, optimizer=optimizer):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        order = torch_generator(0, "batches", "lab-0", round_)
        masks = torch_generator(0, "masks", "lab-0", round_)
        for _ in range(2):
            for rows in batches(cells.n_cells, 8, order):
                x = torch.from_numpy(cells.batch(rows))
                views = masked_view(x, 0.9, masks), masked_view(x, 0.9, masks)
                objective.step(state, *views, descend, config.method)
        weights = {name: tensor.detach().clone() for name, tensor in state.shared.items()}
        private = state.private
    model = safetensors.numpy.load_file(folder / "model.safetensors")
    assert model.keys() == weights.keys()
    for name, array in model.items():
        assert array.tobytes() == weights[name].numpy().tobytes(), name


def test_an_objective_from_outside_the_package_takes_one_line(tiny, change):
    ours = change(tiny, method="fedsc.ssl.simsiam:OBJECTIVE", pull="constant")
    known = change(tiny, method="fedsimsiam", pull="constant", run_name="by-name")
    by_path, by_name = (
        safetensors.numpy.load_file(run(config) / "model.safetensors") for config in (ours, known)
    )
    assert all(by_path[name].tobytes() == by_name[name].tobytes() for name in by_name)


@pytest.mark.parametrize("method", ["fedsc2", "no.such:THING", "fedsc.ssl.byol:init"])
def test_an_unknown_method_stops_before_any_work(tiny, change, method):
    config = change(tiny, method=method)
    with pytest.raises(ConfigError, match="option method"):
        run(config)
    assert not folder_of(config).exists()


def test_no_message_holds_a_cell_a_label_or_a_private_tensor(tiny, change):
    seen = []

    def watch(message, context):
        reply = client(message, context)
        seen.extend([message, reply])
        return reply

    run(change(tiny, method="fedmoco-v2", queue=16), app=watch)
    run(change(tiny, run_name="byol"), app=watch)
    expression = read(tiny.data.dataset)
    names = {name for message in seen for name in message.content}
    kinds = {name.partition(":")[0] for name in names}
    assert kinds <= {
        *("run", "preprocessing", "question", "question-arrays"),
        *("vocabulary", "weights", "start", "about", "sums", "embedded", "update", "metrics"),
    }
    for message in seen:
        for record in message.content.array_records.values():
            arrays = records.unpack_arrays(record)
            assert list(record) == [records.TENSORS]
            assert not [n for n in arrays if n.startswith(("target.", "key.", "queue", "norm:"))]
            for array in arrays.values():
                # Nothing that travels has a row per cell, of any lab or of the pool.
                assert not array.shape or array.shape[0] not in (len(expression.cells), 48, 24)
        texts = [
            value if isinstance(value, bytes) else str(value).encode()
            for record in message.content.config_records.values()
            for value in record.values()
        ]
        for text in texts:
            assert b"cell5" not in text  # a barcode


# Failures (each lab's reply may be late, wrong or missing)


def failing(round_, labs, how):
    """Make a client some of whose labs fail in one round, in one way."""

    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type != "train":
            return reply
        if int(message.content["run"]["round"]) != round_:
            return reply
        if how == "crash":
            raise RuntimeError("out of memory")
        for lab in labs:
            if records.key("update", lab) in reply.content:
                _spoil(reply.content, lab, how)
        return reply

    return app


def _spoil(content, lab, how):
    key = records.key("update", lab)
    arrays = records.unpack_arrays(content[key])
    name = "encoder.1.weight"
    if how == "nan":
        arrays[name] = np.full_like(arrays[name], np.nan)
    elif how == "shape":
        arrays[name] = arrays[name][:, :-1]
    elif how == "dtype":
        arrays[name] = arrays[name].astype(np.float64)
    elif how == "missing":
        del arrays[name]
    elif how == "extra":
        arrays["target.encoder.0.weight"] = arrays[name]
    elif how == "no-metrics":
        del content[records.key("metrics", lab)]
    elif how == "silent":
        del content[key], content[records.key("metrics", lab)]
        return
    content[key] = records.pack_arrays(arrays)


@pytest.mark.parametrize(
    "how", ["nan", "shape", "dtype", "missing", "extra", "no-metrics", "silent"]
)
def test_a_bad_reply_is_refused_and_the_lab_comes_back(tiny, how):
    folder = run(tiny, app=failing(2, ["lab-1"], how))

    rows = {(row["round"], row["lab"]): row for row in metrics(folder)}
    assert "failed" in rows[2, "lab-1"]
    assert "loss" not in rows[2, "lab-1"]
    assert all("loss" in rows[2, f"lab-{lab}"] for lab in (0, 2, 3))
    assert rows[3, "lab-1"]["loss"] > 0
    # Its last known weights are those of round 1, so it has moved further from the global model.
    assert rows[3, "lab-1"]["d"] > 0
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())


def test_a_failed_lab_takes_no_part_in_the_average(tiny, change):
    config = change(tiny, rounds=1)
    sent = {}

    def watch(message, context):
        reply = client(message, context)
        for lab in records.labs_in(reply.content, "update"):
            sent[lab] = records.unpack_arrays(reply.content[records.key("update", lab)])
        if "update:lab-1" in reply.content:
            _spoil(reply.content, "lab-1", "nan")
        return reply

    folder = run(config, app=watch)
    model = safetensors.numpy.load_file(folder / "model.safetensors")
    rows = [row for row in metrics(folder) if "loss" in row]
    cells = sum(row["cells"] for row in rows)
    for name, array in model.items():
        slow = sum(row["cells"] / cells * sent[row["lab"]][name].astype(float) for row in rows)
        np.testing.assert_allclose(array, slow, rtol=1e-6, atol=1e-7)


def test_when_every_lab_fails_the_run_fails_and_the_checkpoint_is_intact(tiny, change):
    with pytest.raises(RunError, match=r"round 2: 0 valid updates.*checkpoint of round 1"):
        run(tiny, app=failing(2, [], "crash"))
    folder = folder_of(tiny)
    assert not (folder / "scores.json").exists()
    assert "the run failed" in (folder / "run.log").read_text()

    resumed = run(change(tiny, resume=str(folder)))
    undisturbed = run(change(tiny, run_name="undisturbed"))
    assert model_bytes(resumed) == model_bytes(undisturbed)


def test_a_full_disk_at_the_server_stops_the_run_in_words_and_resume_loses_nothing(
    tiny, change, monkeypatch
):
    import os

    original, rounds = os.replace, []

    def replace(source, target):
        if str(target).endswith("checkpoint.safetensors"):
            rounds.append(target)
            if len(rounds) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(source, target)

    monkeypatch.setattr("os.replace", replace)
    folder = folder_of(tiny)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint.*No space left on device"):
        run(tiny)
    assert not list(folder.glob(".*partial"))
    assert load_checkpoint(folder / "checkpoint.safetensors", tiny.fingerprint()).round == 1
    assert "No space left on device" in (folder / "run.log").read_text()

    resumed = run(change(tiny, resume=str(folder)))
    assert model_bytes(resumed) == model_bytes(run(change(tiny, run_name="undisturbed")))
    assert len(metrics(resumed)) == 12  # the lines of round 2 are not there twice


def test_a_full_disk_at_a_lab_is_its_failure_in_words(tiny, monkeypatch):
    original = client_state.replace

    def replace(path, content):
        if "lab-1" in str(path) and path.name == "private-000002.safetensors":
            raise RunError(f"cannot write {path}: No space left on device; free some space")
        original(path, content)

    monkeypatch.setattr(client_state, "replace", replace)
    rows = {(row["round"], row["lab"]): row for row in metrics(run(tiny))}
    assert "No space left on device" in rows[2, "lab-1"]["failed"]
    assert rows[3, "lab-1"]["loss"] > 0


def test_below_min_labs_the_run_stops(tiny, change):
    config = change(tiny, min_labs=4)
    with pytest.raises(RunError, match=r"3 valid updates, 4 needed.*lab-1"):
        run(config, app=failing(2, ["lab-1"], "nan"))


def test_too_few_labs_from_the_start(tiny, change):
    config = change(tiny, min_labs=5, round_timeout=0.01)
    with pytest.raises(RunError, match=r"4 labs present.*min-labs = 5"):
        run(config)


def test_a_lab_lost_during_statistics_is_left_out(tiny):
    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "query.ask":
            for name in [n for n in reply.content if n.endswith(":lab-2")]:
                del reply.content[name]
        return reply

    rows = metrics(run(tiny, app=app))
    assert {row["lab"] for row in rows} == {"lab-0", "lab-1", "lab-3"}


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("no_waiting")
def test_an_unusable_set_fails_with_its_own_words(tiny, change, tmp_path):
    missing = change(tiny, dataset=str(tmp_path / "none.h5ad"))
    with pytest.raises(RunError, match=r"none\.h5ad"):
        run(missing)


class SlowNodes(InProcessGrid):
    """Nodes that come up one by one: the second after some messages were answered."""

    late_by = 1
    kind = "train"
    answered = 0

    def get_node_ids(self):
        nodes = super().get_node_ids()
        return nodes if self.answered >= self.late_by else nodes[:1]

    def send_and_receive(self, messages, *, timeout=None):
        sent = list(messages)
        self.answered += any(m.metadata.message_type == self.kind for m in sent)
        return super().send_and_receive(sent, timeout=timeout)


def lead(grid, config):
    server(
        grid,
        Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_mapping()
        ),
    )
    return folder_of(config)


def test_a_real_lab_may_join_late(tiny, tmp_path):
    nodes = [
        {"lab": name, "data": tiny.data.dataset, "state": str(tmp_path / name)}
        for name in ("A", "B")
    ]
    folder = lead(SlowNodes(client, nodes, tiny), tiny)
    rows = {(row["round"], row["lab"]): row for row in metrics(folder)}
    assert (1, "B") not in rows
    assert rows[2, "B"]["mu"] == 0  # new labs take the global model
    assert rows[3, "B"]["mu"] > 0
    # A real lab keeps its private state on its own disk; the server scores from sums alone.
    assert list((tmp_path / "A" / "run").glob("private-*.safetensors"))
    assert not (folder / "labs").exists()
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["pooled"] is None
    assert -1 <= scores["kmeans"]["ari"] <= 1


def test_a_simulation_waits_for_all_its_nodes(tiny, change, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    grid = SlowNodes(client, [{"partition-id": i, "num-partitions": 2} for i in range(2)], tiny)
    grid.kind = "query.describe"
    folder = lead(grid, tiny)
    assert model_bytes(folder) == model_bytes(run(change(tiny, run_name="all-at-once")))


def test_fraction_train_draws_labs_by_seed(tiny, change):
    folder = run(change(tiny, fraction_train=0.5, rounds=8, min_labs=1))
    rows = metrics(folder)
    drawn = [{row["lab"] for row in rows if row["round"] == r} for r in range(1, 9)]
    assert all(len(labs) == 2 for labs in drawn)
    assert len(set.union(*drawn)) == 4
    again = run(change(tiny, fraction_train=0.5, rounds=8, min_labs=1, run_name="again"))
    assert model_bytes(again) == model_bytes(folder)


def test_resume_of_a_finished_run_changes_nothing(tiny, change):
    folder = run(tiny)
    before = model_bytes(folder)
    run(change(tiny, resume=str(folder)))
    assert model_bytes(folder) == before
    assert len(metrics(folder)) == 12


def test_resume_with_other_options_is_refused(tiny, change):
    folder = run(tiny)
    with pytest.raises(RunError, match="other options"):
        run(change(tiny, resume=str(folder), seed=3))


def test_a_run_name_is_not_taken_twice(tiny):
    run(tiny)
    with pytest.raises(ConfigError, match="exists: resume"):
        run(tiny)


def test_run_inprocess_is_the_same_run(tiny, change):
    run_inprocess(tiny)
    assert model_bytes(folder_of(tiny)) == model_bytes(run(change(tiny, run_name="other")))


def test_what_flower_prints_for_us_has_no_escapes_and_each_line_once(tiny, monkeypatch):
    """As in the log of a SuperLink, a container, or `flwr run . --stream | cat`."""
    screen = io.StringIO()
    monkeypatch.setattr(console_handler, "stream", screen)
    monkeypatch.setattr(console_handler, "colored", True)
    run_inprocess(tiny)
    lines = screen.getvalue().splitlines()
    assert sum(line.startswith("INFO :      round ") for line in lines) == tiny.training.rounds
    assert "\x1b" not in screen.getvalue()
    assert len(set(lines)) == len(lines) - 1  # the run folder is said first and last


def test_grid_answers_an_exception_with_an_error(tiny):
    def broken(message, context):
        raise ValueError("boom")

    grid = InProcessGrid(broken, [{}], tiny)
    sent = Message(RecordDict(), dst_node_id=100, message_type="train", group_id="1")
    (reply,) = grid.send_and_receive([sent])
    assert isinstance(reply.error, Error)
    assert "boom" in reply.error.reason


@pytest.mark.parametrize("options", [{"scale": "lab"}, {"local_norm": True}])
def test_per_lab_statistics_on_a_label_made_split_are_marked(tiny, change, options):
    folder = run(change(tiny, **options))
    scores = json.loads((folder / "scores.json").read_text())
    assert "leak" in scores["warnings"][0]
    assert "leak" in (folder / "run.log").read_text()
    by_donor = {"partition": "column", "partition_key": "donor", "run_name": "donors"}
    folder = run(change(tiny, **options, **by_donor))
    assert json.loads((folder / "scores.json").read_text())["warnings"] == []


def test_encoders_of_their_own_are_scored_in_the_labs_alone(tiny, change):
    folder = run(change(tiny, local_norm=True, partition="iid"))
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["pooled"] is None
    assert -1 <= scores["kmeans"]["ari"] <= 1


def test_a_folder_of_files_is_one_lab_each_also_with_other_genes(tiny, change, tmp_path):
    import anndata

    whole = anndata.read_h5ad(tiny.data.dataset)
    (tmp_path / "labs").mkdir()
    whole[:40, :50].copy().write_h5ad(tmp_path / "labs" / "A.h5ad")
    whole[40:, 10:].copy().write_h5ad(tmp_path / "labs" / "B.h5ad")
    for genes, measured in (("intersection", 40), ("union", 60)):
        config = change(tiny, dataset=str(tmp_path / "labs"), genes=genes, run_name=genes)
        folder = run(config)
        assert {row["lab"] for row in metrics(folder)} == {"A", "B"}
        assert len((folder / "vocabulary.txt").read_text().splitlines()) == measured
        assert json.loads((folder / "scores.json").read_text())["pooled"]["ari"] is not None


def test_cells_without_a_label_are_embedded_but_not_scored(tiny, change, tmp_path):
    import anndata

    cells = anndata.read_h5ad(tiny.data.dataset)
    cells.obs.loc[cells.obs_names[:20], "cell_type"] = np.nan
    cells.write_h5ad(tmp_path / "part.h5ad")
    config = change(tiny, dataset=str(tmp_path / "part.h5ad"), partition="iid")
    scores = json.loads((run(config) / "scores.json").read_text())
    assert scores["pooled"]["ari"] is not None
    assert scores["kmeans"]["ari"] is not None


def test_without_labels_scores_are_null(tiny, change):
    folder = run(change(tiny, label_key="", partition="iid"))
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["pooled"].values()) == {None}
    assert scores["kmeans"] is None
    assert scores["graph"]["ari"] is None
    assert scores["graph"]["clusters"] > 0


def test_a_reference_list_decides_the_genes(tiny, change, tmp_path):
    reference = tmp_path / "genes.txt"
    reference.write_text("\n".join(f"TP{i}" for i in range(20, 50)) + "\n")
    config = change(tiny, genes="reference", reference_genes=str(reference), n_genes=12)
    vocabulary = (run(config) / "vocabulary.txt").read_text().split()
    assert sorted(vocabulary) == sorted(f"TP{i}" for i in range(20, 50))
