"""Real processes on loopback, TLS and authentication: the same model as the simulation's."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployment import certificates, commands, flower, init, local, registration
from deployment.status import read_status
from fedsc.sent import read_sent
from simulations.inprocess import run_inprocess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_labs(make_site):
    site = make_site(2)
    with local.running(site.deployment, site.data, timeout=300) as supervisor:
        yield site, supervisor


@pytest.mark.long
def test_two_labs_end_with_the_simulation_s_model(two_labs, real, change, tmp_path):
    site, _ = two_labs
    config = real(site, rounds=2, run_name="two")
    run_id = site.start(config)
    assert site.wait(run_id) == "finished:completed", _said(site)
    status = read_status("loop", home=site.deployment.flwr_home)
    assert (status.run_id, status.state) == (run_id, "finished:completed")
    assert (status.progress.round, status.progress.rounds) == (2, 2)
    assert status.progress.labs == (2, 2)
    assert [(lab.name, lab.present) for lab in status.labs] == [(lab, True) for lab in site.data]
    _assert_same_model(config, change, tmp_path)
    for lab in site.data:  # every message met a process of its own
        sent = list(read_sent(site.deployment.lab(lab) / "state" / "two"))
        assert [answer.round for answer in sent if answer.round] == [1, 2]
        assert sent[0].questions == ("query.describe",)
        assert sent[-1].questions == ("query.finish",)


def test_a_key_that_is_not_registered_is_refused(two_labs, tmp_path):
    site, _ = two_labs
    before = registration.nodes(site.deployment)
    folder = _copy_of_a_lab(site, tmp_path)
    private, _ = certificates.make_supernode_key()
    (folder / "supernode.key").write_bytes(private)
    assert "could not establish a connection" in _refused(site, folder)
    assert [n["node-id"] for n in registration.nodes(site.deployment)] == [
        n["node-id"] for n in before
    ]


def test_a_server_of_another_authority_is_not_trusted(two_labs, tmp_path):
    site, _ = two_labs
    folder = _copy_of_a_lab(site, tmp_path)
    other = init.create(tmp_path / "other", ["A"])
    (folder / "ca.crt").write_bytes((other.ca / "ca.crt").read_bytes())
    # Its own executor must be able to trust it: the runtime certificate is of that authority too.
    for name in ("runtime.crt", "runtime.key"):
        (folder / name).write_bytes((other.lab("A") / name).read_bytes())
    assert "certificate verify failed" in _refused(site, folder, "--max-retries", "1").lower()


def test_the_command_stops_all_it_started_on_sigterm(make_site):
    site = make_site(2)
    root = site.deployment.root
    data = [f"--data={lab}={path}" for lab, path in site.data.items()]
    command = [sys.executable, "-m", "fedsc.cli", "deploy", "local", str(root), *data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        said = []
        for line in running.stdout:
            said.append(line)
            if line.startswith("logs: "):
                break
        started = _processes_of(root)
        running.send_signal(signal.SIGTERM)
        said += running.stdout
    assert running.returncode == 0, said
    assert any("all labs are online" in line for line in said)
    assert f"  export FLWR_HOME={root / 'flwr'}\n" in said
    assert said[-1] == "stopped\n"
    assert len(started - {running.pid}) >= 6
    assert not _processes_of(root)


def _processes_of(root):
    """List processes whose command line names this folder."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(root).encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def _assert_same_model(config, change, tmp_path):
    simulated = change(config, output=str(tmp_path / "simulated"))
    run_inprocess(simulated)
    models = [
        (Path(c.run.output) / c.run.name / "model.safetensors").read_bytes()
        for c in (config, simulated)
    ]
    assert models[0] == models[1]


def _copy_of_a_lab(site, tmp_path):
    lab = next(iter(site.data))
    folder = tmp_path / "impostor"
    folder.mkdir()
    for file in site.deployment.lab(lab).iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _refused(site, folder, *arguments):
    """Start a SuperNode that must end by itself; give what it said."""
    command = commands.supernode(
        folder,
        "impostor",
        folder / "cells.h5ad",
        site.deployment.control_address,
        "127.0.0.1",
        local.free_port(),
    )
    done = subprocess.run(
        [*command, *arguments],
        env=flower.environment(folder / ".flwr"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stdout


def _said(site):
    """Give the end of every log, for a failure that cannot be looked at later."""
    return "\n".join(
        f"{log.name}: {log.read_text(errors='replace')[-2000:]}"
        for log in sorted(site.deployment.logs.glob("*.log"))
    )
