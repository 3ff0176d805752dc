import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from logging import DEBUG, INFO, WARNING
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.common import log
from flwr.common.logger import FLOWER_LOGGER

from fedsc.config import Config
from fedsc.data.preprocess import Preprocessing
from fedsc.errors import ConfigError, RunError
from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony import load_harmony
from server_app.run_folder import RunFolder, new_name
from simulations.harmony import integrate_here


def _open(tmp_path, **options):
    return RunFolder.open(Config.of(output=str(tmp_path), **options))


def test_names_tell_method_set_and_seed():
    name = new_name(Config.of(method="a.b:C", dataset="/x/cells.h5ad", seed=7))
    assert name.endswith("-a.b.C-cells-seed7")
    assert new_name(Config.of(method="fedpca", wait_for_labs=3)).endswith("-fedpca-3-labs-seed0")


def test_metrics_of_rounds_to_be_done_again_are_forgotten(tmp_path):
    folder = _open(tmp_path, run_name="r")
    folder.append_metrics([{"round": r, "lab": lab} for r in (1, 2, 3) for lab in "ab"])
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "la')  # killed in the middle of a line
    folder.forget_metrics_after(2)
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 1, 2, 2]


def test_resume_needs_a_run_folder(tmp_path):
    with pytest.raises(ConfigError, match="no run folder is there"):
        _open(tmp_path, resume=str(tmp_path / "nothing"))


def test_resume_enters_the_folder(tmp_path):
    first = _open(tmp_path, run_name="r")
    assert _open(tmp_path, resume=str(first.path)).path == first.path


def test_log_is_kept_with_the_reason_of_a_failure(tmp_path):
    folder = _open(tmp_path, run_name="r")
    with pytest.raises(RuntimeError), folder.led():
        raise RuntimeError("no space on the moon")
    assert "no space on the moon" in (folder.path / "run.log").read_text()


def test_the_log_for_programs_has_a_line_a_record_and_fields(tmp_path):
    folder = _open(tmp_path, run_name="r")
    handlers = list(FLOWER_LOGGER.handlers)
    with folder.led():
        log(DEBUG, "Flower and Ray talk of themselves")
        log(INFO, "lab %s: %d cells", "α\n", 3, extra={"lab": "α\n", "cells": 3})
        log(WARNING, "waiting", extra={"labs": ["A", "B"]})
    with pytest.raises(RunError), folder.led():
        raise RunError("no space")
    assert handlers == FLOWER_LOGGER.handlers
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["level"] for row in rows] == ["INFO", "WARNING", "ERROR"]
    assert (rows[0]["lab"], rows[0]["cells"]) == ("α\n", 3)
    assert rows[0]["message"] == "lab α\n: 3 cells"
    assert rows[1]["labs"] == ["A", "B"]
    assert rows[2]["reason"] == "no space"
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)


def test_what_labs_agreed_on_comes_back_bit_for_bit(tmp_path):
    folder = _open(tmp_path, run_name="r")
    assert folder.read_preprocessing("print") is None
    agreed = Preprocessing(
        ("b", "a"), np.array([0.1, 1 / 3]), np.array([1.0, 2e-17]), 0.1 + 0.2, np.inf, ("a", "b")
    )
    folder.write_preprocessing(agreed, "BA", "print")
    back = folder.read_preprocessing("print")
    assert back.mean.tobytes() == agreed.mean.tobytes()
    assert back.std.tobytes() == agreed.std.tobytes()
    assert (back.genes, back.vocabulary) == (agreed.genes, agreed.vocabulary)
    assert (back.target_sum, back.max_value) == (agreed.target_sum, agreed.max_value)
    assert folder.read_preprocessing("other options") is None


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": "print"}', '{"fingerprint": 3'])
def test_damage_to_what_labs_agreed_on_is_told(tmp_path, content):
    folder = _open(tmp_path, run_name="r")
    (folder.path / "preprocessing.json").write_text(content)
    with pytest.raises(RunError, match=r"preprocessing\.json is damaged"):
        folder.read_preprocessing("print")


def test_an_output_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="option output: cannot make"):
        _open(tmp_path / "file", run_name="r")


def test_a_name_is_free_again_where_a_run_came_to_nothing(tmp_path):
    first = _open(tmp_path, run_name="r", n_genes=10)
    first.write_cells({"A": "digest"}, "print")
    with pytest.raises(RunError), first.led():
        raise RunError("a lab has no cells")
    with first.led(), pytest.raises(ConfigError, match="exists: resume it"):
        _open(tmp_path, run_name="r")  # it is led still
    again = _open(tmp_path, run_name="r", n_genes=20)
    assert json.loads((again.path / "config.json").read_text())["n-genes"] == 20
    assert again.read_cells("print") is None
    assert "a lab has no cells" in (again.path / "run.log").read_text()
    (again.path / "preprocessing.json").write_text("{}")
    with pytest.raises(ConfigError, match="exists: resume it"):
        _open(tmp_path, run_name="r")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists: resume it"):
        _open(tmp_path, run_name="mine")


def test_runs_of_real_labs_have_a_place_that_does_not_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"output = 'runs': with real labs .* be an absolute"):
        RunFolder.open(Config.of(wait_for_labs=2))
    assert not list(tmp_path.iterdir())
    assert RunFolder.open(Config.of()).path.parent == tmp_path / "runs"


def test_a_run_has_one_leader_at_a_time(tmp_path):
    first = _open(tmp_path, run_name="r")
    second = _open(tmp_path, resume=str(first.path))
    with first.led(), pytest.raises(RunError, match="is led by another process"), second.led():
        pytest.fail("two leaders")
    with second.led():
        pass


@pytest.mark.slow
def test_a_leader_that_was_killed_leaves_the_run_to_others(tmp_path):
    folder = _open(tmp_path, run_name="r")
    script = f"""
import os, pathlib, signal
from server_app.run_folder import RunFolder
with RunFolder(pathlib.Path({str(folder.path)!r})).led():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with folder.led():
        pass


def test_a_resumed_run_takes_over_what_does_not_change_the_past_and_says_so(tmp_path):
    first = _open(tmp_path, run_name="r", rounds=5, dataset="old.h5ad")
    later = {"rounds": 9, "dataset": "new.h5ad", "wait_for_labs": 2, "min_updates": 1}
    second = _open(tmp_path / "moved", resume=str(first.path), round_timeout=60.0, **later)
    with second.led():
        assert json.loads((first.path / "config.json").read_text())["rounds"] == 5  # not begun yet
        second.go_on()
    kept = json.loads((first.path / "config.json").read_text())
    assert (kept["rounds"], kept["dataset"], kept["wait-for-labs"]) == (9, "new.h5ad", 2)
    assert (kept["run-name"], kept["output"]) == ("r", str(tmp_path))
    said = (first.path / "run.log").read_text()
    assert "rounds = 9 (was 5)" in said
    assert "round-timeout = 60.0 (was 3600.0)" in said
    third = _open(tmp_path, resume=str(first.path), round_timeout=60.0, **later)
    with third.led():
        third.go_on()
    assert (first.path / "run.log").read_text().count("resuming with") == 1


@pytest.mark.parametrize("removed", range(6))
def test_old_results_that_are_left_go_together_wherever_a_resume_is_killed(
    tmp_path, monkeypatch, removed
):
    folder = _open(tmp_path, run_name="r", rounds=5)
    names = ["scores.json", "report.html", "clusters.safetensors", "integration.safetensors"]
    names += ["markers.csv", "labs/A.h5ad"]
    (folder.path / "labs").mkdir()
    for name in names:
        (folder.path / name).write_text("of before")
    unlink, left = Path.unlink, [removed]

    def kill(path, **more):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        unlink(path, **more)

    again = _open(tmp_path, resume=str(folder.path), rounds=9)
    monkeypatch.setattr(Path, "unlink", kill)
    with pytest.raises(KeyboardInterrupt):
        again.go_on()
    assert [name for name in names if not (folder.path / name).exists()] == names[:removed]
    assert json.loads((folder.path / "config.json").read_text())["rounds"] == 5


def test_clusters_never_lie_without_the_integration_they_are_of(tmp_path, monkeypatch):
    folder = _open(tmp_path, run_name="r")
    x = np.random.default_rng(0).normal(size=(60, 4))
    harmony, _ = integrate_here([BatchedCells(x, np.repeat([0, 1], 30))], 0)
    clusters = SimpleNamespace(model="0123", pack=lambda: b"clusters")
    analysis = SimpleNamespace(clusters=clusters, integration=SimpleNamespace(harmony=harmony))
    original = os.replace

    def kill(source, target):
        if target.name == "clusters.safetensors":
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr("os.replace", kill)
    with pytest.raises(KeyboardInterrupt):
        folder.write_analysis(analysis, [])
    kept = load_harmony(folder.path, SimpleNamespace(dimensions=4, digest="0123"))
    assert kept.name == harmony.name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 3}, "seed was 0, not 3"),
        ({"n_genes": 9, "alpha": 0.1}, "alpha was 0.7, not 0.1; n-genes was 500, not 9"),
        ({"schedule": "cosine", "rounds": 9}, "rounds was 300, not 9; schedule was"),
    ],
)
def test_what_would_change_the_past_is_refused_by_name_also_without_a_checkpoint(
    tmp_path, options, words
):
    first = _open(tmp_path, run_name="r")
    before = (first.path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="started with other options") as refused:
        _open(tmp_path, resume=str(first.path), **options)
    assert words in str(refused.value)
    assert (first.path / "config.json").read_bytes() == before
