"""``fedsc status``: what a person and a program are told."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from deployment.status import LabState, Progress, Status
from fedsc.cli import status as command

app = typer.Typer()
app.command()(command.status)

_SEEN = datetime.now(UTC) - timedelta(hours=2)
_RUNNING = Status(
    run_id="77",
    state="running",
    details="",
    elapsed=90.0,
    seconds_left=510.0,
    progress=Progress(3, 20, 1, 0.12345, (1, 2), {"B": "did not [answer]"}, "/runs/x"),
    labs=(LabState("A", True, datetime.now(UTC)), LabState("B", False, _SEEN)),
    server="fedsc (localhost:8444)",
)
_NOTHING = Status("", "no run", "", 0.0, None, Progress(), (LabState("node 5", False, None),), "")


@pytest.fixture
def said(monkeypatch, tmp_path):
    asked = []

    def call(found, *arguments):
        def read(*given, home):
            asked.append((*given, home))
            return found

        monkeypatch.setattr(command, "read_status", read)
        result = CliRunner().invoke(
            app, arguments, catch_exceptions=False, env={"FLWR_HOME": str(tmp_path)}
        )
        assert result.exit_code == 0
        return result.output

    call.asked = asked
    return call


def test_a_person_is_told_how_far_the_clustering_is(said):
    progress = replace(_RUNNING.progress, round=20, kmeans=35)
    told = " ".join(said(replace(_RUNNING, progress=progress, seconds_left=0.0)).split())
    assert "time left unknown: training is done, k-means after 35 iterations" in told


def test_a_person_is_told_round_loss_time_left_and_labs(said, tmp_path):
    told = " ".join(said(_RUNNING, "there").split())
    for phrase in (
        "server fedsc (localhost:8444)",
        "run 77: running",
        "round 3 of 20, 1 of 2 labs",
        "loss 0.1235",
        "elapsed 0:01:30",
        "time left about 0:08:30, then scoring",
        "failed B: did not [answer]",
        "folder /runs/x (on the server)",
        "source the words of `flwr log`",
    ):
        assert phrase in told
    assert "│ A │ present │ now" in told
    assert "│ B │ absent │ 2:0" in told
    assert said.asked == [("there", "", tmp_path)]


def test_a_lab_that_is_there_and_not_in_the_run_is_out_and_a_person_is_told_why(said):
    out = {"B": "did not [answer]", "C": "no [space]", "node 9": "no label column"}
    labs = [LabState(name, True, datetime.now(UTC), out.get(name, "")) for name in "ABC"]
    found = replace(
        _RUNNING, progress=replace(_RUNNING.progress, out=out), labs=(*labs, _NOTHING.labs[0])
    )
    told = " ".join(said(found).split())
    for state in ("│ A │ present", "│ B │ out", "│ C │ out", "│ node 5 │ absent"):
        assert f"{state} │" in told
    assert "failed B: did not [answer] out C: no [space] out node 9: no label column" in told
    assert json.loads(said(found, "--json"))["labs"][2]["out"] == "no [space]"


def test_before_the_first_run_the_labs_are_told(said):
    told = " ".join(said(_NOTHING).split())
    assert "none yet: no run" in told
    assert "│ node 5 │ absent │ never" in told
    assert "round" not in told
    assert "source" not in told


def test_why_a_run_failed_is_told(said):
    failed = Status("7", "finished:failed", "it broke", 1.0, None, Progress(), (), "")
    told = " ".join(said(failed, "--run-id", "7").split())
    assert "run 7: finished:failed why it broke" in told
    assert "time left" not in told
    assert "last seen" not in told  # a table of no labs
    assert said.asked[0][:2] == ("", "7")


def test_a_program_reads_the_same_as_json(said):
    found = json.loads(said(_RUNNING, "--json"))
    assert found["run_id"] == "77"
    assert found["progress"]["labs"] == [1, 2]
    assert found["seconds_left"] == 510.0
    seen = _SEEN.isoformat()
    assert found["labs"][1] == {"name": "B", "present": False, "last_seen": seen, "out": ""}


def test_a_person_is_told_the_phase_and_at_the_end_where_files_are(said):
    early = replace(_RUNNING, progress=Progress(phase="statistics"))
    assert "phase statistics" in " ".join(said(early).split())
    ended = replace(
        _RUNNING,
        state="finished:completed",
        progress=Progress(phase="report", files={"A": "a.fedsc.h5ad"}),
    )
    told = " ".join(said(ended).split())
    assert "phase" not in told
    read = replace(ended, progress=replace(ended.progress, source="/runs/x/log.jsonl"))
    assert "source" not in said(read)
    assert "A's file a.fedsc.h5ad (in the lab's own folder)" in told
