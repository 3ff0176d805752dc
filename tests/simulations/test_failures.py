"""Each lab's reply may be late, wrong or missing, and disks full: what a run does about it."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from client_app import app as client
from client_app import state
from client_app.state import load_private
from deployment.certificates import make_supernode_key
from deployment.register import VARIABLE, record
from fedsc.errors import ConfigError, RunError
from protocol import records
from server_app.checkpoint import load_checkpoint
from simulations.inprocess import InProcessGrid


def failing(faults):
    """Make a client that spoils updates: ``faults`` maps (round, lab) to how."""

    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "train":
            round_ = int(message.content["run"]["round"])
            for lab in records.labs_in(reply.content, "update"):
                if how := faults.get((round_, lab)):
                    _spoil(reply.content, lab, how)
        return reply

    return app


def crashing(round_):
    """Make a client whose node dies in a round."""

    def app(message, context):
        if message.metadata.message_type == "train" and message.metadata.group_id == str(round_):
            raise RuntimeError("out of memory")
        return client(message, context)

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


BAD = {
    (2, "lab-1"): ("nan", "encoder.1.weight holds NaN"),
    (2, "lab-2"): ("shape", "encoder.1.weight is float32"),
    (3, "lab-1"): ("dtype", "encoder.1.weight is float64"),
    (3, "lab-2"): ("missing", "arrays ['encoder.1.weight'] do not fit"),
    (4, "lab-1"): ("extra", "arrays ['target.encoder.0.weight'] do not fit"),
    (4, "lab-2"): ("no-metrics", "the metrics is missing"),
    (5, "lab-1"): ("silent", "did not answer"),
}


@pytest.fixture(scope="module")
def bad_replies(tiny_run, change, lead, tmp_path_factory):
    """Lead a run of six rounds through every kind of bad reply."""
    output = str(tmp_path_factory.mktemp("bad"))
    config = change(tiny_run, output=output, rounds=6, label_key="", partition="iid")
    return lead(config, app=failing({at: how for at, (how, _) in BAD.items()}))


@pytest.mark.parametrize("at", BAD, ids=[how for how, _ in BAD.values()])
def test_a_bad_reply_is_refused_and_the_lab_comes_back(bad_replies, at):
    rows, (round_, lab) = bad_replies.by_round, at
    assert BAD[at][1] in rows[at]["failed"]
    assert "loss" not in rows[at]
    others = {f"lab-{i}" for i in range(4)} - {name for r, name in BAD if r == round_}
    assert all("loss" in rows[round_, other] for other in others)
    # It is sent weights again, pulled from its last known ones.
    later = min(r for r in range(round_ + 1, 7) if (r, lab) not in BAD)
    assert rows[later, lab]["loss"] > 0
    assert rows[later, lab]["d"] > 0


def test_nothing_bad_gets_into_the_model(bad_replies):
    assert all(np.isfinite(array).all() for array in bad_replies.weights.values())
    assert not [name for name in bad_replies.weights if name.startswith("target.")]


def test_a_failed_lab_takes_no_part_in_the_average(unlabelled, change, lead):
    sent = {}

    def watch(message, context):
        reply = failing({(1, "lab-1"): "nan"})(message, context)
        for lab in records.labs_in(reply.content, "update"):
            sent[lab] = records.unpack_arrays(reply.content[records.key("update", lab)])
        return reply

    left = lead(change(unlabelled, rounds=1), app=watch)
    rows = [row for row in left.rows if "loss" in row]
    assert [row["lab"] for row in rows] == ["lab-0", "lab-2", "lab-3"]
    cells = sum(row["cells"] for row in rows)
    for name, array in left.weights.items():
        slow = sum(row["cells"] / cells * sent[row["lab"]][name].astype(float) for row in rows)
        np.testing.assert_allclose(array, slow, rtol=1e-6, atol=1e-7)


def test_when_every_lab_fails_the_run_fails_and_the_checkpoint_is_intact(
    tiny, change, lead, left_by, undisturbed
):
    with pytest.raises(RunError, match=r"round 2: 0 valid updates.*checkpoint of round 1"):
        lead(tiny, app=crashing(2))
    left = left_by(tiny)
    assert not (left.folder / "scores.json").exists()
    assert "the run failed" in left.log
    assert lead(change(tiny, resume=str(left.folder))).model == undisturbed.model


@pytest.mark.parametrize("upload", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_what_uploads_leave_out_survives_a_stop(unlabelled, change, lead, tmp_path, upload):
    """A run that is stopped after a round goes on to the same bytes: errors are private state."""
    config = change(unlabelled, upload=upload, method="fedsimclr")  # keeps nothing else
    whole = lead(change(config, output=str(tmp_path / "whole")))
    plain = lead(change(config, output=str(tmp_path / "plain"), upload="float32"))
    assert whole.model != plain.model
    with pytest.raises(RunError, match="round 3: 0 valid updates"):
        lead(config, app=crashing(3))
    state._known.clear()  # another process
    folder = Path(config.run.output) / config.run.name
    assert lead(change(config, resume=str(folder))).model == whole.model
    kept = load_private(folder / "labs" / "lab-0", 4)
    assert kept
    assert all(name.startswith("upload-error:") for name in kept)


def test_a_full_disk_at_the_server_stops_the_run_in_words_and_resume_loses_nothing(
    tiny, change, lead, left_by, undisturbed, monkeypatch
):
    original, rounds = os.replace, []

    def replace(source, target):
        if str(target).endswith("checkpoint.safetensors"):
            rounds.append(target)
            if len(rounds) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(source, target)

    monkeypatch.setattr("os.replace", replace)
    left = left_by(tiny)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint.*No space left on device"):
        lead(tiny)
    assert not list(left.folder.glob(".*partial"))
    assert load_checkpoint(left.folder / "checkpoint.safetensors", tiny.fingerprint()).round == 1
    assert "No space left on device" in left.log

    resumed = lead(change(tiny, resume=str(left.folder)))
    assert resumed.model == undisturbed.model
    assert len(resumed.rows) == 12  # the lines of round 2 are not there twice


def test_a_full_disk_at_a_lab_is_its_failure_in_words(unlabelled, lead, monkeypatch):
    original = os.replace

    def replace(source, target):
        if "lab-1" in str(target) and str(target).endswith("private-000002.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(source, target)

    monkeypatch.setattr("os.replace", replace)
    rows = lead(unlabelled).by_round
    assert "No space left on device" in rows[2, "lab-1"]["failed"]
    assert rows[3, "lab-1"]["loss"] > 0


def test_a_disk_that_is_full_from_the_start_is_told_once_and_without_a_traceback(
    unlabelled, lead, left_by, monkeypatch, caplog
):
    original = os.replace

    def replace(source, target):
        if "private-" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(source, target)

    monkeypatch.setattr("os.replace", replace)
    with caplog.at_level(0, "flwr"), pytest.raises(RunError) as told:
        lead(unlabelled)
    assert str(told.value).endswith("; no round is done")
    reasons = re.findall(r"cannot write \S+: No space left", str(told.value))
    assert len(reasons) == len(set(reasons))
    of_labs = [record for record in caplog.records if "failed in train" in record.getMessage()]
    assert of_labs
    assert all("No space left" in record.getMessage() for record in of_labs)
    assert not any(record.exc_info for record in of_labs)


def test_below_min_updates_the_run_stops(unlabelled, change, lead):
    config = change(unlabelled, min_updates=4)
    with pytest.raises(RunError, match=r"3 valid updates, 4 needed.*lab-1"):
        lead(config, app=failing({(2, "lab-1"): "nan"}))


def test_too_few_labs_from_the_start(unlabelled, change, lead):
    config = change(unlabelled, wait_for_labs=5, round_timeout=0.01)
    with pytest.raises(RunError, match=r"4 labs present.*5 waited for.*wait-for-labs"):
        lead(config)


def test_a_lab_lost_during_statistics_is_left_out_of_them_and_comes_back_to_train(
    unlabelled, change, lead
):
    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "query.ask":
            for name in [n for n in reply.content if n.endswith(":lab-2")]:
                del reply.content[name]
        return reply

    left = lead(change(unlabelled, rounds=1), app=app)
    assert "going on without lab lab-2" in left.log
    assert {row["lab"] for row in left.rows} == {f"lab-{i}" for i in range(4)}


@pytest.mark.parametrize(("kind", "value"), [("weight", 3e38), ("running_var", -5)])
def test_a_poisonous_update_is_refused_and_the_next_round_has_all_labs(
    unlabelled, change, lead, kind, value
):
    def app(message, context):
        reply = client(message, context)
        key = records.key("update", "lab-1")
        if key in reply.content and message.metadata.group_id == "1":
            arrays = records.unpack_arrays(reply.content[key])
            name = next(name for name in sorted(arrays) if name.endswith(kind))
            arrays[name] = np.full_like(arrays[name], value)
            reply.content[key] = records.pack_arrays(arrays)
        return reply

    rows = lead(change(unlabelled, rounds=2), app=app).by_round
    assert "refused" in rows[1, "lab-1"]["failed"]
    assert all("loss" in rows[2, f"lab-{lab}"] for lab in range(4))


def test_a_lab_cannot_claim_an_embedding_longer_than_one(unlabelled, change, lead):
    """Possible for other cells, not for those of a trained encoder, whose rows have length 1."""

    def app(message, context):
        reply = client(message, context)
        key = records.key("sums", "lab-1")
        asked = message.content.get("question")
        if asked is not None and asked["name"] == "kmeans-mean" and key in reply.content:
            sums = records.unpack_arrays(reply.content[key])
            sums["sum"], sums["squares"] = sums["sum"] * 100, sums["squares"] * 10_000
            reply.content[key] = records.pack_arrays(sums)
        return reply

    left = lead(change(unlabelled, rounds=1, clusters=3), app=app)
    assert "going on without lab lab-1: kmeans-mean: the" in left.log
    assert left.scores["kmeans"]["sizes"]


@pytest.mark.parametrize("how", ["median", pytest.param("trimmed-mean", marks=pytest.mark.slow)])
def test_a_robust_average_withstands_a_lab_that_lies_within_the_bounds(
    unlabelled, change, lead, how
):
    name = "encoder.0.weight"

    def app(message, context):
        reply = client(message, context)
        key = records.key("update", "lab-1")
        if key in reply.content:
            arrays = records.unpack_arrays(reply.content[key])
            arrays[name] = arrays[name] - np.float32(0.02)
            reply.content[key] = records.pack_arrays(arrays)
        return reply

    def weights(aggregate, **options):
        run_name = f"{aggregate}{len(options)}"
        config = change(unlabelled, rounds=1, aggregate=aggregate, run_name=run_name)
        left = lead(config, **options)
        assert not any("failed" in row for row in left.rows)
        return left.weights[name]

    honest = weights(how)
    robust, mean = (np.abs(weights(by, app=app) - honest).mean() for by in (how, "mean"))
    assert robust < mean


def test_an_unusable_set_fails_with_its_own_words(tiny, change, lead, tmp_path):
    with pytest.raises(RunError, match=r"none\.h5ad"):
        lead(change(tiny, dataset=str(tmp_path / "none.h5ad")))


@pytest.mark.parametrize("method", ["fedsc2", "no.such:THING", "fedsc.ssl.byol:init"])
def test_an_unknown_method_stops_before_any_work(tiny, change, lead, left_by, method):
    config = change(tiny, method=method)
    with pytest.raises(ConfigError, match="option method"):
        lead(config)
    assert not left_by(config).folder.exists()


# Nodes that come late


def late(kind):
    """Make a grid whose second node comes once messages of a kind were answered."""

    class SlowNodes(InProcessGrid):
        answered = False

        def get_node_ids(self):
            nodes = super().get_node_ids()
            return nodes if self.answered else nodes[:1]

        def send_and_receive(self, messages, *, timeout=None):
            sent = list(messages)
            self.answered |= any(m.metadata.message_type == kind for m in sent)
            return super().send_and_receive(sent, timeout=timeout)

    return SlowNodes


@pytest.mark.slow
def test_a_real_lab_may_join_late(tiny, change, lead, tmp_path):
    tiny = change(tiny, wait_for_labs=1)
    nodes = [
        {"lab": name, "data": tiny.data.dataset, "state": str(tmp_path / name)}
        for name in ("A", "B")
    ]
    left = lead(tiny, nodes, grid=late("train"))
    rows = left.by_round
    assert (1, "B") not in rows
    assert rows[2, "B"]["mu"] == 0  # new labs take the global model
    assert rows[3, "B"]["mu"] > 0
    # A real lab keeps its private state on its own disk; the server scores from sums alone.
    assert list((tmp_path / "A" / "run").glob("private-*.safetensors"))
    assert not (left.folder / "labs").exists()
    assert left.scores["pooled"] is None
    assert -1 <= left.scores["kmeans"]["ari"] <= 1


@pytest.fixture
def real_labs(tiny, tmp_path, monkeypatch):
    """Give what makes the node config of a real lab: its keys are in the server's register."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "register"))

    def make(lab, name=None):
        key = tmp_path / f"{lab}.key"
        private, public = make_supernode_key()
        key.write_bytes(private)
        record(tmp_path / "register", lab, public)
        state = tmp_path / f"state-{lab}"
        return {
            "lab": name or lab,
            "data": tiny.data.dataset,
            "state": str(state),
            "key": str(key),
        }

    return make


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 2])
def test_who_takes_another_lab_s_name_gets_nothing_and_changes_nothing(
    unlabelled, change, lead, real_labs, tmp_path, place
):
    """Whether it comes before the lab itself or after it."""
    honest = [real_labs("A"), real_labs("B")]
    thief = real_labs("M", name="A")
    config = change(unlabelled, rounds=1, wait_for_labs=2)
    alone = lead(change(config, run_name="alone"), honest)

    told = []

    def app(message, context):
        if context.node_config["key"] == thief["key"]:
            told.append(message.metadata.message_type)
        return client(message, context)

    left = lead(config, [*honest[:place], thief, *honest[place:]], app=app)
    assert left.model == alone.model
    assert set(told) == {"query.describe"}
    assert "calls itself A, and its signature is not by A's key" in left.log
    for lab in ("A", "B"):
        assert list((tmp_path / f"state-{lab}" / "run").glob("*.fedsc.h5ad"))
    # All that it has is its own record of what it told of itself.
    assert [file.name for file in (tmp_path / "state-M").rglob("*.*")] == ["sent.jsonl"]


@pytest.mark.slow
def test_a_simulation_waits_for_all_its_nodes(tiny, lead, undisturbed):
    assert lead(tiny, grid=late("query.describe")).model == undisturbed.model
