"""What hospitals' networks, disks and processes do, on real processes: no run is lost by it.

Two runs on one deployment, each met by several faults; the tests look at what is left of them.
"""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anndata
import pytest

from deployment import commands, flower, local, registration
from deployment.supervisor import supervised
from fedsc.config import Config
from simulations.inprocess import run_inprocess

pytestmark = [pytest.mark.slow, pytest.mark.long]

HERE = Path(__file__).parent / "faults"
A, B, CLOCK = "lab-0", "lab-1", "lab-2"
PATIENCE = 900.0  # seconds; an upper bound for anything that has to happen


@dataclass(frozen=True)
class Scene:
    """A deployment of two labs that do as they are told."""

    site: object
    supervisor: object
    faults: Path

    def acts(self, lab, *acts):
        (self.faults / f"{lab}.acts").write_text("\n".join(acts))

    def held(self, lab):
        return (self.faults / f"{lab}.held").exists()

    def held_for(self, lab):
        with suppress(FileNotFoundError):
            return time.time() - (self.faults / f"{lab}.held").stat().st_mtime
        return 0.0

    def let_go(self, lab):
        (self.faults / f"{lab}.go").touch()

    def config(self, **options):
        return Config.of(
            method="saboteur:OBJECTIVE",
            pull="fedsc",
            dataset=str(self.site.folder),
            n_genes=30,
            min_shared_genes=10,
            target_sum=1000.0,
            norm="none",  # ten tensors instead of eighteen, each a few messages of Flower's
            batch_size=128,  # one step a round: what a lab does then, it sends
            local_epochs=1,
            output=str(self.site.deployment.server / "runs"),
            **options,
        )

    def labs_state(self, lab, run):
        return self.site.deployment.lab(lab) / "state" / run


@pytest.fixture(scope="module")
def scene(make_site, tmp_path_factory, until):
    site = make_site(3)
    deployment, faults = site.deployment, tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, supervised(deployment.logs) as supervisor:
        patch.setenv("PYTHONPATH", str(HERE))
        patch.setenv("FAULTS", str(faults))
        patch.syspath_prepend(str(HERE))
        supervisor.start(local.server_programs(deployment))
        until(lambda: local.port_taken(deployment.control_port), "the SuperLink")
        registration.register(deployment)
        for lab in (A, B):
            supervisor.start(local.lab_programs(deployment, lab, site.data[lab]))
        until(lambda: {A, B} <= registration.online(deployment), "the labs")
        yield Scene(site, supervisor, faults)


@dataclass(frozen=True)
class Outcome:
    """What is left of a run."""

    folder: Path

    @property
    def log(self):
        path = self.folder / "run.log"
        return path.read_text() if path.exists() else ""

    def rows(self, lab):
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        # A line may be half written while the run is going.
        lines = text[: text.rfind("\n") + 1].splitlines()
        return {row["round"]: row for row in map(json.loads, lines) if row["lab"] == lab}

    @property
    def finished(self):
        return self.log.count("INFO run folder: ") == 2


# A run whose server fails, again and again


@pytest.fixture(scope="module")
def unlucky(scene, until):
    """Kill the ServerApp, fill the server's disk, kill the SuperLink; resume after each."""
    # A reply on its way when the SuperLink dies is lost, and its round waits for so long.
    config = scene.config(
        run_name="unlucky", rounds=4, wait_for_labs=2, min_updates=2, round_timeout=180.0
    )
    left = Outcome(Path(config.run.output) / config.run.name)
    resumed = config.replace(resume=str(left.folder))
    checkpoint = left.folder / "checkpoint.safetensors"
    seen = {}

    scene.acts(B, "", "hold")
    started = time.monotonic()
    scene.site.start(config)
    until(lambda: scene.held(B), "round 2")
    seen["pace"] = time.monotonic() - started  # of about five messages, on this machine, today
    seen["before"] = checkpoint.read_bytes()
    (server,) = children(scene.supervisor.pid("serverapp"))
    os.kill(server, signal.SIGKILL)
    scene.let_go(B)
    seen["serverapp"] = checkpoint.read_bytes()

    (scene.faults / "server-disk-full").touch()
    scene.site.start(resumed)
    until(lambda: "the run failed" in left.log, "the full disk")
    seen["disk"], seen["disk-log"] = checkpoint.read_bytes(), left.log
    (scene.faults / "server-disk-full").unlink()

    scene.acts(B, "hold")
    third = scene.site.start(resumed)
    until(lambda: scene.held(B), "round 2, once more")
    superlink = scene.supervisor.pid("superlink")
    os.kill(superlink, signal.SIGKILL)
    until(lambda: scene.supervisor.pid("superlink") not in (None, superlink), "its restart")
    seen["superlink"] = checkpoint.read_bytes()
    scene.let_go(B)
    until(lambda: local.port_taken(scene.site.deployment.control_port), "the SuperLink")
    until(lambda: {A, B} <= registration.online(scene.site.deployment), "the labs' return")

    # The ServerApp outlives its SuperLink for a while and may end the run by itself.
    seen["state"] = scene.site.wait(third)
    if seen["state"] != "finished:completed":
        until(lambda: left.log.count("the run failed") == 2, "the end of its ServerApp")
        seen["state"] = scene.site.wait(scene.site.start(resumed))
    return left, seen


@pytest.mark.parametrize("fault", ["serverapp", "disk", "superlink"])
def test_a_server_that_fails_loses_nothing_that_was_checkpointed(unlucky, fault):
    _, seen = unlucky
    assert seen[fault] == seen["before"]


def test_a_full_disk_at_the_server_stops_the_run_in_words(unlucky):
    left, seen = unlucky
    assert f"the run failed: cannot write {left.folder}" in seen["disk-log"]
    assert "File too large; free some space" in seen["disk-log"]


def test_a_run_resumed_after_every_failure_is_the_undisturbed_run(scene, unlucky, tmp_path):
    left, seen = unlucky
    assert seen["state"] == "finished:completed"
    assert left.log.count("resuming after round 1") >= 2
    assert sorted(left.rows(A)) == sorted(left.rows(B)) == [1, 2, 3, 4]
    # The same two files in a simulation that nothing befell.
    twins = tmp_path / "twins"
    twins.mkdir()
    for lab in (A, B):
        (twins / f"{lab}.h5ad").symlink_to(scene.site.data[lab])
    config = scene.config(run_name="twin", rounds=4, wait_for_labs=2, min_updates=2)
    config = config.replace(dataset=str(twins), output=str(tmp_path / "runs"))
    run_inprocess(config)
    model = tmp_path / "runs" / "twin" / "model.safetensors"
    assert (left.folder / "model.safetensors").read_bytes() == model.read_bytes()
    assert not list(scene.site.deployment.root.rglob("*.partial"))


# A run with labs that misbehave


@pytest.fixture(scope="module")
def unruly(scene, unlucky, until):
    """Lead a run through: NaN, a wrong shape, 100 MB, a full disk, a hang; a SuperNode's death."""
    timeout = max(45.0, unlucky[1]["pace"])  # about four rounds' time
    config = scene.config(
        run_name="unruly", rounds=18, wait_for_labs=2, min_updates=1, round_timeout=timeout
    )
    scene.acts(A, "nan", "shape", "large", "disk", "hold")
    scene.acts(B, *[""] * 9, "hold")
    scene.site.start(config)
    left = Outcome(Path(config.run.output) / config.run.name)
    until(lambda: 5 in left.rows(A), "the round in which a lab hangs")
    scene.let_go(A)

    until(lambda: scene.held(B), "the round in which a SuperNode dies")
    os.kill(scene.supervisor.pid(f"supernode-{B}"), signal.SIGKILL)
    until(lambda: 10 in left.rows(A), "the end of that round")
    scene.let_go(B)

    # Flower calls a dead node online for up to a minute and refuses the new one until then, and the
    # server may wait as long again for the reply it lost; rounds are made long, so that the run
    # does not end before.
    scene.acts(A, *["hold"] * config.training.rounds)

    def returned():
        if scene.held_for(A) > timeout / 2:
            scene.let_go(A)
        return any("loss" in row for round_, row in left.rows(B).items() if round_ > 10)

    until(returned, "the SuperNode's return")
    scene.acts(A)
    until(lambda: left.finished or (scene.held(A) and scene.let_go(A)), "the end of the run")
    return left


@pytest.mark.parametrize(
    ("round_", "words"),
    [
        (1, "refused: predictor.0.weight holds NaN or infinity"),
        (2, "refused: predictor.0.weight is float32(128, 127), should be float32(128, 128)"),
        (3, "refused: its arrays take 10"),
        (4, "File too large; free some space"),
        (5, "did not answer within "),
    ],
    ids=["nan", "shape", "100-mb", "lab-disk-full", "trains-for-ever"],
)
def test_a_bad_round_of_a_lab_is_told_in_words_and_the_run_goes_on(unruly, round_, words):
    assert words in unruly.rows(A)[round_]["failed"]
    assert f"round {round_}: lab {A} failed: " in unruly.log
    assert "loss" in unruly.rows(B)[round_]


def test_a_lab_that_hung_is_not_waited_for_again_and_comes_back(unruly):
    after = [row for round_, row in unruly.rows(A).items() if round_ > 5]
    busy = [row for row in after if "failed" in row]
    assert all("still busy" in row["failed"] for row in busy)
    assert "loss" in after[len(busy)]
    assert len(busy) < 5


def test_a_supernode_killed_in_mid_round_costs_its_lab_that_round_and_it_comes_back(unruly):
    rows = unruly.rows(B)
    assert "failed" in rows[10]
    assert "loss" in unruly.rows(A)[10]
    back = min(round_ for round_, row in rows.items() if round_ > 10 and "loss" in row)
    assert rows[back]["d"] > 0  # from its last known weights: nothing of it was forgotten
    assert all("loss" in row for round_, row in rows.items() if round_ > back)


def test_labs_end_with_their_results_and_no_half_file(scene, unruly):
    for lab, path in scene.site.data.items():
        if lab != CLOCK:
            copy = scene.labs_state(lab, "unruly") / f"{lab}.fedsc.h5ad"
            cells = anndata.read_h5ad(path).n_obs
            assert anndata.read_h5ad(copy).obsm["X_fedsc"].shape == (cells, 60)
    assert not list(scene.site.deployment.root.rglob("*.partial"))


def test_a_lab_whose_clock_is_a_day_off_is_refused_at_the_door(scene):
    """Flower signs the time and refuses what is 5 minutes old; ours compares no clocks at all."""
    deployment = scene.site.deployment
    node = commands.supernode(
        deployment.lab(CLOCK),
        CLOCK,
        scene.site.data[CLOCK],
        deployment.control_address,
        "127.0.0.1",
        local.free_port(),
    )
    refusals = '/v1/fleet/activate-node HTTP/1.1" 401'
    server_log = deployment.logs / "superlink.log"
    for off in (86400, -86400):
        before = server_log.read_text().count(refusals)
        done = subprocess.run(
            node,
            env=flower.environment(deployment.lab(CLOCK) / "state" / ".flwr")
            | {"PYTHONPATH": str(HERE / "clock"), "CLOCK_OFF": str(off)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        # It ends by itself, without a node's number; Flower calls that graceful.
        assert "SuperNode ID" not in done.stdout + done.stderr
        assert server_log.read_text().count(refusals) > before
    assert CLOCK not in registration.online(deployment)


def children(pid):
    """List the flwr-serverapp processes that an executor started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [
        int(child)
        for child in text.split()
        if b"flwr-serverapp" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
