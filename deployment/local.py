"""A whole deployment on one machine, without containers: ``fedsc deploy local``."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deployment import commands, flower
from deployment.check import port_taken, refuse_unknown
from deployment.layout import Deployment
from deployment.register import VARIABLE
from deployment.registration import online, register
from deployment.supervisor import Program, Supervisor, supervised
from fedsc.errors import ConfigError, RunError

_LOOPBACK = "127.0.0.1"


def server_programs(deployment: Deployment) -> list[Program]:
    """List the server's processes: ``superlink``, ``serverapp``."""
    folder = deployment.server
    environment = flower.environment(folder / "state" / ".flwr")
    return [
        Program(
            "superlink",
            commands.superlink(folder, _LOOPBACK, deployment.control_port),
            environment,
        ),
        Program(
            "serverapp",
            commands.superexec(folder, deployment.control_address),
            environment | {VARIABLE: str(deployment.register)},
        ),
    ]


def lab_programs(deployment: Deployment, lab: str, data: Path) -> list[Program]:
    """List a lab's processes: ``supernode-LAB``, ``clientapp-LAB``.

    Raises
    ------
    ConfigError
        If a path cannot be written in Flower's node config.
    """
    folder = deployment.lab(lab)
    environment = flower.environment(folder / "state" / ".flwr")
    port = free_port()
    supernode = commands.supernode(
        folder, lab, data.resolve(), deployment.control_address, _LOOPBACK, port
    )
    clientapp = commands.clientapp(folder, f"{_LOOPBACK}:{port}")
    return [
        Program(f"supernode-{lab}", supernode, environment),
        Program(f"clientapp-{lab}", clientapp, environment | flower.LAB_EXECUTOR),
    ]


@contextmanager
def running(
    deployment: Deployment, data: Mapping[str, Path], timeout: float = 120.0
) -> Iterator[Supervisor]:
    """Start server and labs, wait until every lab is online; stop them with the block.

    Parameters
    ----------
    deployment
        What :func:`deployment.init.create` made.
    data
        Each lab's file.
    timeout
        Seconds to wait for the server, and again for the labs.

    Raises
    ------
    ConfigError
        If labs and data do not fit, or the server's port is taken.
    RunError
        If the server or a lab does not come up, with what its log says last.
    """
    check_data(deployment, data)
    if port_taken(deployment.control_port):
        raise ConfigError(
            f"port {deployment.control_port} is taken: is this deployment running already? "
            "Otherwise change control_port in deployment.toml"
        )
    with supervised(deployment.logs) as supervisor:
        supervisor.start(server_programs(deployment))
        _wait(lambda: port_taken(deployment.control_port), timeout, deployment, ["superlink"])
        register(deployment)
        for lab, path in data.items():
            supervisor.start(lab_programs(deployment, lab, path))
        names = [f"supernode-{lab}" for lab in data]
        _wait(lambda: online(deployment) >= set(data), timeout, deployment, names)
        yield supervisor


def check_data(deployment: Deployment, data: Mapping[str, Path]) -> None:
    """Refuse data that do not fit the labs.

    Raises
    ------
    ConfigError
        If a lab has no data, a name is no lab's, or a file is not there.
    """
    refuse_unknown(data, deployment.labs)
    for lab in deployment.labs:
        if lab not in data or not data[lab].exists():
            where = f"{data[lab]} is not there" if lab in data else "no file was named"
            raise ConfigError(f"lab {lab}: {where}; give --data {lab}=FILE")


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(
    condition: Callable[[], bool], timeout: float, deployment: Deployment, processes: list[str]
) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            said = []
            for process in processes:
                log = deployment.logs / f"{process}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-3:]
                said.append(f"{log}: {' '.join(last)}")
            names = " or ".join(processes)
            raise RunError(f"{names} did not come up within {timeout:.0f} s; {'; '.join(said)}")
        time.sleep(0.5)
