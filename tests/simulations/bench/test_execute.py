"""Suites in parallel processes: killed, resumed, failing, and still the same table."""

import fcntl
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from simulations.bench.cell import Cell
from simulations.bench.execute import run_cells
from simulations.bench.suite import load, plan

_COST = ["seconds", "cpu_seconds", "peak_memory", "bytes_to_labs", "bytes_from_labs", "questions"]
_COST += ["resumed"]


@pytest.fixture
def suite(tiny_set, tmp_path):
    """Write a suite of 2 sets, 1 seed, 2 rounds: 10 runs."""
    other = tmp_path / "other.h5ad"
    shutil.copy(tiny_set, other)
    path = tmp_path / "small.toml"
    path.write_text(
        f"""
title = "Small"
about = "For tests."
reference = "FedSC"
controls = ["FedSC"]
seeds = 1
figures = ["bars", "sweep", "splits", "maps", "pulls"]
federated = {{ labs = 4, subtypes-per-lab = 2, rounds = 2, n-genes = 30, min-shared-genes = 10,
               batch-size = 8, local-epochs = 1, draw-map = false }}
datasets = [
  {{ name = "{tiny_set}", label_key = "cell_type" }},
  {{ name = "{other}", label_key = "cell_type" }},
]
lines = [
  {{ name = "FedSC", method = "fedsc" }},
  {{ name = "FedMoCo v2", method = "fedmoco-v2" }},
  {{ name = "Federated PCA", method = "fedpca" }},
  {{ name = "PCA", method = "pca", options = {{ k = "true" }} }},
]
""".replace("\n               ", " ")
    )
    return path


def bench(suite, output, *options):
    command = [sys.executable, "-m", "fedsc.cli", "bench", str(suite), "-o", str(output), *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Started in the background, a test run ignores SIGINT and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def held(output):
    """Tell whether some process works on a cell."""
    for path in output.glob("cells/*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def page_of(output):
    """Read the page without its columns of cost."""
    page = (output / "small" / "table.md").read_text()
    return [re.sub(r"\|[^|]*\|[^|]*\|$", "|", line) for line in page.splitlines()]


@pytest.mark.slow
@pytest.mark.long
def test_a_suite_killed_half_way_and_resumed_yields_the_same_table(suite, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    running = bench(suite, whole, "--jobs", "2")
    said, _ = running.communicate(timeout=600)
    assert running.returncode == 0, said

    running = bench(suite, killed, "--jobs", "1")
    deadline = time.monotonic() + 300
    while len(list(killed.glob("cells/*/row.json"))) < 3:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("cells/*/row.json")}
    assert 3 <= len(before) < 10

    resumed = bench(suite, killed)
    said, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert page_of(killed) == page_of(whole)
    rows = [pd.read_parquet(folder / "small" / "rows.parquet") for folder in (whole, killed)]
    pd.testing.assert_frame_equal(*(r.drop(columns=_COST) for r in rows), check_dtype=False)
    assert len(rows[0]) == 10
    assert rows[0]["control"].sum() == 2
    figures = {path.name for path in (whole / "small").glob("*.png")}
    assert {"bars.png", "maps-tiny.png", "pulls-other.png", "split-tiny-k2-drop.png"} <= figures


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_stops_at_once_keeps_what_is_done_and_writes_its_table(suite, tmp_path):
    running = bench(suite, tmp_path / "out", "--jobs", "1")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("out/cells/*/row.json")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "of 10 runs done; run it again" in said
    assert (tmp_path / "out" / "small" / "table.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)]
)
def test_no_cell_outlives_its_suite(how, suite, tmp_path):
    endless = suite.with_name("endless.toml")
    endless.write_text(suite.read_text().replace("rounds = 2", "rounds = 100000"))
    running = bench(endless, tmp_path / "out", "--jobs", "1", "--line", "FedSC")
    deadline = time.monotonic() + 300
    while not held(tmp_path / "out"):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(how)
    running.communicate()
    while held(tmp_path / "out"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others(suite, tmp_path):
    cells = [cell for _, cell in plan(load(str(suite))) if cell.method == "pca"]
    bad = Cell(method="pca", dataset=str(tmp_path / "no.h5ad"), seed=0, options={})
    watched = []
    outcome = run_cells([bad, *cells], tmp_path / "out", 2, lambda o, r: watched.append(len(r)))
    assert set(outcome.rows) == {cell.key for cell in cells}
    assert set(outcome.failures) == {bad.key}
    assert "no.h5ad" in outcome.failures[bad.key]
    assert max(watched) <= 2
