"""What a run's log says, read back from the log of a real run."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from deployment import status
from deployment.layout import read_nodes
from deployment.status import LabState, Progress, lab_states, read_json_log, read_log, seconds_left
from fedsc.errors import RunError

_NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def test_the_log_of_a_real_run_is_understood(undisturbed):
    found = read_log(undisturbed.log)
    assert (found.round, found.rounds, found.first) == (3, 3, 1)
    assert found.loss is not None
    assert 0 < found.loss < 10
    assert found.labs == (4, 4)
    assert found.folder == str(undisturbed.folder)
    assert found.failed == {}


def without_source(progress):
    assert progress.source.endswith("log.jsonl")
    return replace(progress, source="")


def test_both_logs_of_a_real_run_say_the_same(undisturbed):
    found = without_source(read_json_log(undisturbed.folder / "log.jsonl", "1"))
    told = read_log(undisturbed.log)
    assert found.loss == pytest.approx(told.loss, abs=1e-4)
    assert replace(found, loss=told.loss) == told
    assert found.phase == "files"


def failing(labs, rounds):
    """Make a client some of whose labs have a full disk in some rounds."""
    from flwr.app import ConfigRecord

    from client_app import app as client

    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "train" and message.content["run"]["round"] in rounds:
            for lab in labs:
                if reply.content.pop(f"update:{lab}", None):
                    reply.content[f"error:{lab}"] = ConfigRecord({"reason": "no space left"})
        return reply

    return app


def test_a_lab_s_failure_in_a_real_run_is_understood(tiny, change, lead, left_by):
    """Two labs fail in every round: the run stops with too few valid updates."""
    config = change(tiny, min_updates=3)
    with pytest.raises(RunError):
        lead(config, app=failing(["lab-1", "lab-2"], [1, 2, 3]))
    found = read_log(left_by(config).log)
    assert (found.round, found.rounds, found.loss, found.labs) == (0, 3, None, None)
    assert found.failed == {"lab-1": "no space left", "lab-2": "no space left"}
    assert without_source(read_json_log(left_by(config).folder / "log.jsonl", "1")) == found


def losing(lab, kinds):
    """Make a client one of whose labs fails in messages of some kinds."""
    from flwr.app import ConfigRecord

    from client_app import app as client

    def app(message, context):
        reply = client(message, context)
        if message.metadata.message_type in kinds:
            for name in [name for name in reply.content if name.endswith(f":{lab}")]:
                del reply.content[name]
                told = {"reason": "no space left; lab of its own", "final": True}
                reply.content[f"error:{lab}"] = ConfigRecord(told)
        return reply

    return app


def both(left):
    """Give what both logs of a run say of labs that are out, which is the same."""
    found = read_json_log(left.folder / "log.jsonl", "1").out
    assert read_log(left.log).out == found
    return found


def test_a_lab_that_is_left_out_of_a_phase_is_out_until_it_is_asked_again(
    tiny, change, lead, tmp_path
):
    left = lead(change(tiny, method="fedpca", files=True), app=losing("lab-1", {"query.embed"}))
    before, _, _ = left.log.partition("going on without lab lab-1: ")
    assert read_log(before).out == {}
    later, _, _ = left.log.partition("no longer left out: lab-1")
    assert "phase: files" in later  # it has no part in these either
    assert read_log(later).out == {"lab-1": "no space left; lab of its own"}
    lines = (left.folder / "log.jsonl").read_text().split('"back"')[0]
    (tmp_path / "log.jsonl").write_text(lines)
    assert read_json_log(tmp_path / "log.jsonl", "1").out == read_log(later).out
    # It is back, but has no file: a simulation's labs are not waited for.
    assert both(left) == {"lab-1": "left out of the clusters, and away or busy until the end"}


def test_a_lab_without_results_in_its_file_is_out(tiny, change, lead):
    config = change(tiny, method="fedpca", files=True)
    left = lead(config, app=losing("lab-1", {"query.finish"}))
    assert both(left) == {"lab-1": "no space left; lab of its own"}
    assert set(read_log(left.log).files) == {"lab-0", "lab-2", "lab-3"}


def test_a_lab_that_failed_in_a_round_is_out_until_the_next(tiny, lead):
    left = lead(tiny, app=failing(["lab-1"], [2]))
    second = left.log.split("round 2/3")[0]
    assert read_log(second).out == {"lab-1": "no space left"}
    assert read_log(left.log.split("round 3/3")[0]).out == {"lab-1": "no space left"}
    assert both(left) == {}


def test_a_node_that_was_refused_is_out_under_the_name_of_its_lab(tmp_path):
    """Until it is taken up; the words of the log do not say which node it was."""
    refused = {"level": "WARNING", "node": 7, "reason": "A: no label column"}
    lines = [{"flower_run": "1"}, refused, {"node": 8, "reason": "B: no key"}]
    path = tmp_path / "log.jsonl"

    def read(*more):
        stamped = [{"time": "2026-01-02T10:00:00", **line} for line in (*lines, *more)]
        path.write_text("".join(json.dumps(line) + "\n" for line in stamped))
        return status._named(read_json_log(path, "1"), {"A": "7"}).out

    assert read() == {"A": "A: no label column", "node 8": "B: no key"}
    assert read({"lab": "A", "cells": 40, "node": 7}) == {"node 8": "B: no key"}


def test_a_resumed_run_counts_from_where_it_began(tiny, change, lead, left_by):
    config = change(tiny, rounds=4)
    left = left_by(config)
    with pytest.raises(RunError):
        lead(config, app=failing([f"lab-{i}" for i in range(4)], [3]))
    stopped = read_log(left.log)
    assert (stopped.round, len(stopped.failed)) == (2, 4)
    (left.folder / "run.log").unlink()
    found = read_log(lead(change(config, resume=str(left.folder))).log)
    assert (found.round, found.rounds, found.first, found.failed) == (4, 4, 3, {})
    assert seconds_left(found, 100.0) == 0.0
    # Of log.jsonl only what was written since the last start counts.
    again = without_source(read_json_log(left.folder / "log.jsonl", "1"))
    assert replace(again, loss=found.loss) == found


def test_flower_s_colours_do_not_matter():
    line = "\x1b[92mINFO \x1b[0m:      round 2/20: loss 1.5000, μ 0.10 to 0.20, 3 of 4 labs"
    assert read_log(line) == Progress(2, 20, 1, 1.5, (3, 4), {}, "")


def test_rounds_of_harmony_are_not_told_as_iterations_of_k_means(tiny, change, lead):
    options = {"partition": "column", "partition_key": "donor", "integrate": "harmony"}
    left = lead(change(tiny, method="fedpca", **options))
    assert "harmony: round 1" in left.log
    assert read_json_log(left.folder / "log.jsonl", "1").kmeans == read_log(left.log).kmeans == 0


def test_a_log_without_rounds_says_nothing_of_them():
    assert read_log("") == Progress(failed={})
    plan = "fedsc with pull fedsc, rounds 8 to 20, 0.16 MB of weights per lab"
    found = read_log(plan)
    assert (found.round, found.rounds, found.first, found.loss) == (7, 20, 8, None)
    assert seconds_left(found, 60.0) is None


def test_only_the_last_round_s_failures_count():
    log = (
        "round 1: lab A failed: old\n"
        "round 1/9: loss 1.0000, μ 0.00 to 0.00, 1 of 2 labs\n"
        "round 2: lab B failed: did not answer\n"
        "round 2/9: loss nan, μ 0.00 to 0.00, 1 of 2 labs\n"
    )
    assert read_log(log).failed == {"B": "did not answer"}


def test_time_left_follows_the_pace_since_the_run_began():
    progress = Progress(round=6, rounds=20, first=5)
    assert seconds_left(progress, 60.0) == 14 * 30.0


def test_labs_are_named_and_last_seen():
    def node(number, state, offline_at="N/A"):
        return {"node-id": number, "status": state, "offline-at": offline_at}

    found = lab_states(
        [
            node("3", "offline", "2026-01-02 11:58:00Z"),
            node("1", "online", "2026-01-01 00:00:00Z"),
            node("2", "registered"),
            node("4", "unregistered"),
        ],
        {"B": "1", "A": "3"},
        _NOW,
        {"B": "no space left"},
    )
    assert found == (
        LabState("A", False, datetime(2026, 1, 2, 11, 58, tzinfo=UTC)),
        LabState("B", True, _NOW, "no space left"),
        LabState("node 2", False, None),
    )


def test_the_newest_run_is_meant_unless_one_is_named(monkeypatch, tmp_path):
    asked = []

    def run(number, pending, state):
        return {
            "run-id": number,
            "pending-at": pending,
            "status": state,
            "status-details": "N/A",
            "elapsed": 12.0,
        }

    runs = [
        run("1", "2026-01-01 10:00:00Z", "finished:completed"),
        run("2", "2026-01-02 10:00:00Z", "running"),
    ]

    def ask(*arguments, home):
        asked.append(arguments)
        if arguments[0] == "ls":
            named = arguments[-1] if "--run-id" in arguments else None
            return {"runs": [r for r in runs if named in (None, r["run-id"])]}
        return {"nodes": []}

    monkeypatch.setattr(status.flower, "ask", ask)
    log = "rounds 1 to 4, \nround 1/4: loss 1.0000, μ 0.00 to 0.00, 2 of 2 labs"
    texts = []

    def text(*arguments, home):
        texts.append(arguments)
        return log

    monkeypatch.setattr(status.flower, "text", text)
    homes = tmp_path, tmp_path / "flwr", tmp_path / "none" / "flwr"
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "there"\n[superlink.there]\naddress = "host:1"\n'
        )
    newest = status.read_status("there", home=tmp_path, now=_NOW)
    assert newest.server == "there (host:1)"
    assert (newest.run_id, newest.state, newest.seconds_left) == ("2", "running", 36.0)
    assert asked[0] == ("ls", "there")
    named = status.read_status(run_id="1", home=tmp_path, now=_NOW)
    assert (named.run_id, named.seconds_left) == ("1", None)
    with pytest.raises(RunError, match="no run 7"):
        status.read_status(run_id="7", home=tmp_path)
    assert (len(texts), named.progress.source) == (2, "")

    # log.jsonl in the deployment that FLWR_HOME lies in goes before the words of `flwr log`.
    home, folder = homes[1], tmp_path / "server" / "runs" / "x"
    folder.mkdir(parents=True)
    time = {"time": "2026-01-02T10:00:00"}
    lines = [
        {**time, "flower_run": "1", "folder": "/server/runs/x"},
        {**time, "phase": "training"},
        {**time, "flower_run": "2", "folder": "/server/runs/x"},
        {**time, "phase": "statistics"},
    ]
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"ti')
    for number, phase in (("1", "training"), ("2", "statistics")):
        found = status.read_status(run_id=number, home=home, now=_NOW).progress
        assert (found.phase, found.source) == (phase, str(path))
    assert len(texts) == 2
    # Elsewhere it is looked for where the words say the run folder is.
    log = f"run folder: {folder}"
    assert status.read_status(run_id="2", home=homes[2]).progress.phase == "statistics"
    runs.clear()
    assert status.read_status(home=tmp_path).state == "no run"


@pytest.mark.parametrize("content", [None, "", "[]", '{"A": 12}'])
def test_names_of_nodes_are_a_help_not_a_need(tmp_path, content):
    if content is not None:
        (tmp_path / "nodes.json").write_text(content)
    assert read_nodes(tmp_path) == ({"A": "12"} if content == '{"A": 12}' else {})


def test_phases_and_the_files_of_labs_are_understood(tiny, change, lead):
    left = lead(change(tiny, method="fedpca", files=True))
    found = read_log(left.log)
    assert found.phase == "report"
    assert found.files == {f"lab-{i}": f"lab-{i}.h5ad" for i in range(4)}
    before = left.log.split("phase: statistics")[0]
    assert read_log(before).phase == "gathering the labs"
    again = read_json_log(left.folder / "log.jsonl", "1")
    assert (again.phase, again.files) == (found.phase, found.files)
