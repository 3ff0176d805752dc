"""The same run under Flower proper: a SuperLink of the tests' own, Ray, several nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsc.errors import RunError
from simulations.flower import run_flower
from simulations.inprocess import run_inprocess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_superlink(tmp_path_factory):
    """Keep away from a SuperLink that may run on this machine; stop ours at the end."""
    home = tmp_path_factory.mktemp("flwr")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(home))
        patch.setenv("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", str(ports[0]))
        patch.setenv("FLWR_LOCAL_CONTROL_API_PORT", str(ports[1]))
        yield
    subprocess.run(["pkill", "-f", f"flower-superlink.*--port {ports[0]}"], check=False)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_ray_gives_the_bits_of_the_inprocess_engine(tiny, change, nodes):
    run_flower(tiny, nodes)
    run_inprocess(change(tiny, run_name="inprocess"))
    folders = [Path(tiny.run.output) / name for name in ("run", "inprocess")]
    models = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert models[0] == models[1]
    scores = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    assert scores[0]["pooled"] == scores[1]["pooled"]
    for way in ("graph", "kmeans"):
        assert scores[0][way] == scores[1][way]


def test_a_run_that_fails_under_flower_raises_its_reason(tiny, change):
    with pytest.raises(RunError, match=r"none\.h5ad"):
        run_flower(change(tiny, dataset="/nowhere/none.h5ad"))


def test_ctrl_c_stops_the_run(tiny, change):
    config = change(tiny, rounds=100_000)
    command = [sys.executable, "-m", "fedsc.cli", "run", "--set", "rounds=100000"]
    for key, value in config.to_mapping().items():
        if key != "rounds":
            command += ["--set", f"{key}={json.dumps(value)}"]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background, a test run ignores SIGINT and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        metrics = Path(config.run.output) / "run" / "metrics.jsonl"
        _wait_for(lambda: metrics.exists() or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "go on with: fedsc run --resume" in said
    listed = subprocess.run(
        [Path(sys.executable).with_name("flwr"), "ls", "--format", "json"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    runs = json.loads(listed.stdout[listed.stdout.find("{") :])["runs"]
    assert {run["status"] for run in runs} <= {
        "finished:completed",
        "finished:failed",
        "finished:stopped",
    }


def _wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)
