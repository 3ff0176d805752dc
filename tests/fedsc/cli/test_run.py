"""``fedsc run`` as a person types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client_app.finish import write_results
from fedsc.cli.run import parse_settings
from fedsc.errors import ConfigError, RunError


def _arguments(config, **options):
    arguments = ["run"]
    for key, value in (config.to_mapping() | options).items():
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    return arguments


def _command(config, **options):
    return [sys.executable, "-m", "fedsc.cli", *_arguments(config, **options)]


def _run(command, columns=200, **kwargs):
    environment = os.environ | {"COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **kwargs
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n-genes=2000", 2000),
        ("alpha=0.5", 0.5),
        ("ema=false", False),
        ("max-value=inf", float("inf")),
        ("method=fedbyol", "fedbyol"),
        ('layer="raw"', "raw"),
        ("partition-key=a=b", "a=b"),
        ("run-name=2026-01-02", "2026-01-02"),
        ("run_name=1e5", "1e5"),
        ("batch-key=7", "7"),
        ("n-genes=7", 7),
    ],
)
def test_settings_are_read_as_toml_or_text(setting, value):
    assert list(parse_settings([setting]).values()) == [value]


def test_a_setting_without_value_is_refused():
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_settings(["rounds"])


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bytes(tiny, change):
    """kill -9 in the middle of a run; then resume it."""
    rounds = 60
    assert _run(_command(tiny, rounds=rounds, **{"run-name": "whole"})).returncode == 0
    runs = Path(tiny.run.output)
    running = subprocess.Popen(
        _command(tiny, rounds=rounds), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = runs / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 20:
        assert time.monotonic() < deadline, "the run did not start"
        assert running.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (runs / "run" / "model.safetensors").exists()

    resumed = _run([*_command(tiny)[:4], "--resume", str(runs / "run")])
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after round" in resumed.stderr
    models = [(runs / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert models[0] == models[1]
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["round"] for row in rows] == sorted(list(range(1, rounds + 1)) * 4)


def test_a_run_ends_with_scores_and_its_folder(tiny, fedsc, left_by, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = fedsc(*_arguments(tiny))
    assert code == 0, err
    left = left_by(tiny)
    assert f"run folder: {left.folder}" in out
    assert f"{left.scores['pooled']['ari']:.3f}" in out
    # Three rounds on a tiny set: below the floor, and said so.
    assert left.scores["graph"]["ari"] < left.scores["floor"]["graph"]["ari"]
    assert "training has not helped (graph, k unknown" in out


def test_a_lab_whose_file_cannot_be_written_is_named_at_the_end(
    unlabelled, fedsc, left_by, monkeypatch
):
    def write(lab, folder, results):
        if lab.name == "lab-1":
            raise RunError("cannot write: No space left on device")
        return write_results(lab, folder, results)

    monkeypatch.setattr("client_app.finish.write_results", write)
    monkeypatch.setattr("server_app.federation._PATIENCE", ())
    monkeypatch.setenv("COLUMNS", "200")
    config = unlabelled.replace(method="fedpca", files=True)
    code, out, err = fedsc(*_arguments(config))
    assert code == 0, err
    left = left_by(config)
    assert "warning: no file with the results at lab lab-1 (cannot write: No space left" in out
    assert f"when that is put right: fedsc run --resume {left.folder}" in out
    assert "cells: 3 files" in out
    assert left.scores["without_files"] == {"lab-1": "cannot write: No space left on device"}
    assert "Without a file: lab-1." in (left.folder / "report.html").read_text()

    monkeypatch.setattr("client_app.finish.write_results", write_results)
    code, out, _ = fedsc("run", "--resume", left.folder)
    assert code == 0
    assert "cells: 4 files" in out
    assert left.scores["without_files"] == {}


@pytest.mark.slow
def test_elsewhere_than_on_a_terminal_the_log_is_shown_line_by_line(tiny):
    """Each line once, whole, rounds included, no escapes: what `fedsc run 2> log` leaves."""
    done = _run(_command(tiny), columns=40)
    log = (Path(tiny.run.output) / "run" / "run.log").read_text()
    assert sum(": loss " in line for line in log.splitlines()) == tiny.training.rounds
    assert done.stderr == log
    assert "\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"rounds": "many"}, 2, "option rounds = 'many'"),
        ({"method": "fedprox"}, 2, "option method = 'fedprox': should be one of fedsc"),
        ({"mask-rate": -1}, 2, "option mask-rate = -1"),
        ({"subtypes-per-lab": 9}, 2, "subtypes-per-lab"),
        ({"wait-for-labs": 9, "round-timeout": 0.01}, 1, "9 waited for"),
        ({"label-key": "celltype"}, 2, "cell_type"),
    ],
)
def test_failures_are_one_sentence_and_an_exit_code(tiny, fedsc, options, code, words):
    ended, _, err = fedsc(*_arguments(tiny, **options))
    assert ended == code
    assert words in err
    assert "Traceback" not in err


def test_a_share_of_a_gpu_needs_the_engine_that_shares_it(tiny, fedsc):
    ended, _, err = fedsc(*_arguments(tiny), "--gpus", "0.25")
    assert ended == 2
    assert "--gpus 0.25: nodes share a GPU under Ray; add --engine flower" in err


def test_processes_are_not_ignored_under_the_engine_that_has_its_own(tiny, fedsc):
    ended, _, err = fedsc(*_arguments(tiny), "--engine", "flower", "--processes", "2")
    assert ended == 2
    assert "--processes 2: under --engine flower nodes have processes of Ray's" in err


def test_resume_of_something_else_is_refused(fedsc, tmp_path):
    code, _, err = fedsc("run", "--resume", tmp_path)
    assert code == 2
    assert "not a run folder" in err


def test_help_shows_examples(fedsc, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fedsc("run", "--help")
    assert code == 0
    assert "fedsc run --dataset cells.h5ad" in out
