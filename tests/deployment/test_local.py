"""What does not need Flower's processes; those are in tests/deployment."""

import os
import sys

import pytest

from deployment import local
from deployment.register import register_of
from deployment.supervisor import Program
from fedsc.errors import RunError


@pytest.fixture
def mute(monkeypatch, federation):
    """A SuperLink that starts and never listens."""
    code = "import time; print('why it cannot', flush=True); time.sleep(600)"
    program = Program("superlink", [sys.executable, "-c", code], dict(os.environ))
    monkeypatch.setattr(local, "server_programs", lambda _: [program])
    monkeypatch.setattr(local, "port_taken", lambda _: False)
    return federation


@pytest.mark.slow
def test_a_server_that_does_not_come_up_is_told_with_its_log_and_stopped(mute, tiny_set):
    seen = {}
    whole = local.Supervisor.stop

    def stop(supervisor):
        seen["pid"] = supervisor.pid("superlink")
        whole(supervisor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.Supervisor, "stop", stop)
        with (
            pytest.raises(RunError, match=r"superlink did not come up within 5 s; .*why it cannot"),
            local.running(mute, {"A": tiny_set, "B": tiny_set}, timeout=5.0),
        ):
            pytest.fail("it said that all were online")
    with pytest.raises(ProcessLookupError):
        os.kill(seen["pid"], 0)


def test_each_lab_gets_its_own_port_state_and_data(federation, tiny_set):
    programs = [local.lab_programs(federation, lab, tiny_set) for lab in ("A", "B")]
    commands = [supernode.command for supernode, _ in programs]
    ports = [command[command.index("--port") + 1] for command in commands]
    assert len(set(ports)) == 2
    for lab, command, (_, clientapp), port in zip("AB", commands, programs, ports, strict=True):
        config = command[command.index("--node-config") + 1]
        state = federation.lab(lab) / "state"
        key = federation.lab(lab) / "supernode.key"
        assert config == f'lab="{lab}" data="{tiny_set}" state="{state}" key="{key}"'
        assert clientapp.command[clientapp.command.index("--runtime-api-address") + 1] == (
            f"127.0.0.1:{port}"
        )
        assert clientapp.environment["FLWR_HOME"] == str(state / ".flwr")
        assert clientapp.environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.1"


def test_the_server_s_app_is_told_where_the_register_is(federation):
    _, serverapp = local.server_programs(federation)
    assert register_of(serverapp.environment) == federation.register


def test_labs_reach_the_server_on_this_machine_only(federation, tiny_set):
    superlink, _ = local.server_programs(federation)
    supernode, _ = local.lab_programs(federation, "A", tiny_set)
    assert superlink.command[superlink.command.index("--host") + 1] == "127.0.0.1"
    assert supernode.command[supernode.command.index("--superlink") + 1] == "127.0.0.1:8444"
