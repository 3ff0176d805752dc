"""README's commands for real labs, as printed, on real processes; and what befalls such labs.

Three labs with TLS and keys: A names its cell types, B has another panel of genes and no labels, C
lies in every answer.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scanpy as sc

from fedsc.run_log import read_entries

pytestmark = [pytest.mark.slow, pytest.mark.long]

CHECKOUT = Path(__file__).parents[2]
LIAR = Path(__file__).parent / "faults" / "liar"


@dataclass
class Rehearsal:
    """The commands, where they run, and what they left."""

    folder: Path
    environment: dict[str, str]
    until: Callable[..., Any]

    @property
    def federation(self):
        return self.folder / "federation"

    def command(self, line, cwd=None):
        """Run a line of the README; give what it printed."""
        done = subprocess.run(
            shlex.split(line),
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, options):
        """Start a run as the README prints it; give its folder as soon as it is there."""
        before = set(self.runs.glob("*"))
        whole = f'output="{self.runs}" wait-for-labs=3 {options}'
        self.command(f"flwr run . fedsc --run-config '{whole}'", cwd=CHECKOUT)
        (run,) = self.until(lambda: set(self.runs.glob("*")) - before, "the run's folder")
        return run

    @property
    def runs(self):
        return self.federation / "server" / "runs"

    def kill(self, lab, program):
        """Kill a lab's program and all that it started."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(f"{self.federation}/labs/{lab}/" in word for word in words) and any(
                Path(word).name == program for word in words
            ):
                found.append(int(entry.name))
        assert found, f"lab {lab} has no {program}"
        for pid in found:
            os.kill(pid, signal.SIGKILL)


def log_of(run):
    path = run / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry.fields for entry in read_entries(lines)]


def said(run, words):
    return any(words in line["message"] for line in log_of(run))


def ended(run):
    ends = sum(line["message"].startswith("run folder: ") for line in log_of(run)) == 2
    return ends or said(run, "the run failed")


@pytest.fixture(scope="module")
def rehearsal(tiny_set, tmp_path_factory, until):
    folder = tmp_path_factory.mktemp("readme")
    cells = anndata.read_h5ad(tiny_set)
    parts = {"A": cells[:40], "B": cells[40:72, ::-1][:, 6:], "C": cells[72:]}
    for lab, part in parts.items():
        (folder / lab).mkdir()
        own = part.copy()
        own.obs = own.obs.rename(columns={"cell_type": "annotation"} if lab == "A" else {})
        if lab != "A":
            own.obs = own.obs[[]]
        own.write_h5ad(folder / lab / "cells.h5ad")
    (folder / "A" / "labs.toml").write_text('[A]\nlabel-key = "annotation"\n')
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(LIAR), os.environ.get("PYTHONPATH", "")]),
        "LIAR": "C",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    rehearsal = Rehearsal(folder, environment, until)
    rehearsal.command(
        "fedsc deploy init --labs A,B,C --output federation --port 18443 --control-port 18444"
    )
    data = " ".join(f"--data {lab}={lab}/cells.h5ad" for lab in parts)
    with subprocess.Popen(
        shlex.split(f"fedsc deploy local federation {data}"),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        # A test run in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as local:
        try:
            assert any("all labs are online" in line for line in local.stdout)
            environment["FLWR_HOME"] = str(folder / "federation" / "flwr")
            yield rehearsal
        finally:
            local.send_signal(signal.SIGINT)
            local.wait(60)


SMALL = "n-genes=30 min-shared-genes=10"


@pytest.fixture(scope="module")
def analysed(rehearsal, until):
    """Lead README's first run of real labs; a lab's app is killed in k-means."""
    run = rehearsal.run(f'method="fedpca" integrate="harmony" clusters=4 {SMALL}')
    until(lambda: said(run, "graph: ") or ended(run), "the graph's clusters")
    time.sleep(3)  # k-means comes next
    rehearsal.kill("B", "flower-superexec")
    until(lambda: ended(run), "the end of the run")
    return run


def copy_of(rehearsal, lab, run):
    state = rehearsal.federation / "labs" / lab / "state"
    return anndata.read_h5ad(state / run.name / "cells.fedsc.h5ad")


def test_a_run_survives_a_lab_killed_in_k_means_and_one_that_always_lies(analysed):
    assert not said(analysed, "the run failed")
    scores = json.loads((analysed / "scores.json").read_text())
    assert scores["graph"]["clusters"] > 1
    assert scores["kmeans"]["clusters"] == 4
    assert scores["integration"]["done"]
    log = log_of(analysed)
    blamed = [line["message"] for line in log if "going on without" in line["message"]]
    assert len(blamed) >= 3  # one a phase: statistics, principal components, clusters
    assert all(words.startswith("going on without lab C: ") for words in blamed)
    assert not any("Traceback" in json.dumps(line) for line in log)


def test_both_labs_get_clusters_types_map_and_markers(analysed, rehearsal):
    a, b = copy_of(rehearsal, "A", analysed), copy_of(rehearsal, "B", analysed)
    assert (a.n_obs, b.n_obs) == (40, 32)
    assert b.n_vars < a.n_vars
    assert "annotation" not in b.obs
    for cells in (a, b):
        assert cells.obs["fedsc_cluster"].notna().all()
        assert np.isfinite(cells.obsm["X_fedsc"]).all()
        assert cells.obsm["X_fedsc_umap"].shape == (cells.n_obs, 2)
        assert len(sc.get.rank_genes_groups_df(cells, group=None))
    # The types are A's; B has none of its own and gets them.
    known = set(a.obs["annotation"])
    assert set(b.obs["fedsc_type"].dropna()) <= known | {"unknown"}
    assert known & set(b.obs["fedsc_type"])


def test_questions_are_counted(analysed):
    questions = json.loads((analysed / "scores.json").read_text())["questions"]
    assert questions["graph"] <= 23
    assert questions["clusters"] == 1


def test_a_supernode_killed_in_mid_round_comes_back_and_costs_the_others_nothing(rehearsal, until):
    run = rehearsal.run(f"rounds=20 local-epochs=1 batch-size=8 round-timeout=90 {SMALL}")
    until(lambda: said(run, "round 2/20") or ended(run), "round 2")
    rehearsal.kill("A", "fedsc-supernode")
    until(lambda: ended(run), "the end of the run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    good = {
        lab: [row["round"] for row in rows if row["lab"] == lab and "loss" in row] for lab in "AB"
    }
    assert good["B"] == list(range(1, 21))
    assert good["A"][-1] == 20
    assert copy_of(rehearsal, "A", run).obs["fedsc_cluster"].notna().all()
