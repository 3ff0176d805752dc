"""The same run under Flower proper: a SuperLink of the tests' own, Ray, several nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deployment import flower
from fedsc.errors import RunError
from simulations.flower import run_flower


@pytest.fixture(scope="module", autouse=True)
def own_superlink(tmp_path_factory, until):
    """Start a SuperLink as ``flwr run`` would, away from others of this machine; stop it."""
    home = tmp_path_factory.mktemp("flwr")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, control = one.getsockname()[1], two.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(home))
        patch.setenv("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", str(port))
        patch.setenv("FLWR_LOCAL_CONTROL_API_PORT", str(control))
        command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--control-api-address", f"127.0.0.1:{control}"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with (home / "superlink.log").open("wb") as log:
            superlink = subprocess.Popen(
                command, env=flower.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            until(lambda: _answers(port) or superlink.poll() is not None)
            assert superlink.poll() is None, (home / "superlink.log").read_text()
            yield
        finally:
            _stop(superlink)


def _answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False


def _stop(superlink):
    """Let a SuperLink end by itself, then what it started, by number, and is left over."""
    started = _below(superlink.pid)
    superlink.terminate()
    try:
        superlink.wait(30)
    except subprocess.TimeoutExpired:
        superlink.kill()
        superlink.wait()
    for pid, begun in started.items():
        if _begun(pid) == begun:  # the same process, not another of its number
            os.kill(pid, signal.SIGKILL)


def _below(pid):
    """List a process's children, and theirs, with when each began."""
    found = {}
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return found
    for child in map(int, children):
        found |= {child: _begun(child)} | _below(child)
    return found


def _begun(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None


@pytest.mark.slow
def test_ray_gives_the_bits_of_the_inprocess_engine(unlabelled, change, lead, left_by):
    """Flower takes a second a message, so few are sent; test_inprocess.py varies the nodes."""
    config = change(unlabelled, rounds=2, target_sum=1000.0)
    run_flower(config, nodes=2)
    left, other = left_by(config), lead(change(config, run_name="inprocess"))
    assert left.model == other.model
    assert left.scores["graph"] == other.scores["graph"]
    assert left.scores["questions"] == other.scores["questions"]


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_fails_under_flower_raises_its_reason(tiny, change):
    with pytest.raises(RunError, match=r"none\.h5ad"):
        run_flower(change(tiny, dataset="/nowhere/none.h5ad"))


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_stops_the_run(tiny, change, until):
    config = change(tiny, rounds=100_000)
    command = [sys.executable, "-m", "fedsc.cli", "run", "--engine", "flower"]
    command += ["--set", "rounds=100000"]
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
        until(lambda: metrics.exists() or running.poll() is not None)
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
