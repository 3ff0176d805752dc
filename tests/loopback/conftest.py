"""A deployment of real processes on loopback: TLS, authentication, labs with files of their own."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from deployment import flower, init
from deployment.layout import Deployment
from fedsc.config import Config

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """A deployment, its labs' files, and how to use it."""

    deployment: Deployment
    data: dict[str, Path]

    @property
    def folder(self) -> Path:
        """The labs' files, as a simulation reads them."""
        return next(iter(self.data.values())).parent

    def start(self, config: Config) -> str:
        """Start a run; give its number."""
        options = self.deployment.root / f"{config.run.name}.toml"
        options.write_text(tomli_w.dumps(config.to_mapping()))
        arguments = (str(CHECKOUT), self.deployment.name, "--run-config", str(options))
        return str(flower.ask("run", *arguments, home=self.deployment.flwr_home)["run-id"])

    def state(self, run_id: str) -> str:
        """Give Flower's word for how a run stands."""
        arguments = ("ls", self.deployment.name, "--run-id", run_id)
        found = flower.ask(*arguments, home=self.deployment.flwr_home)
        return str(found["runs"][0]["status"])

    def wait(self, run_id: str, seconds: float = 3600) -> str:
        """Wait for a run's end; give Flower's word for it."""
        deadline = time.monotonic() + seconds
        while not (state := self.state(run_id)).startswith("finished"):
            assert time.monotonic() < deadline, f"the run is {state}"
            time.sleep(10)  # asking takes a second of a core
        return state


@pytest.fixture(scope="module")
def make_site(tmp_path_factory, tiny_set):
    """Split the tiny set and make a deployment for its labs."""
    from fedsc.cli.split import split

    def make(labs: int) -> Site:
        root = tmp_path_factory.mktemp(f"labs{labs}")
        split(str(tiny_set), root / "data", labs=labs, partition="iid", label_key="cell_type")
        data = {path.stem: path for path in sorted((root / "data").glob("*.h5ad"))}
        assert len(data) == labs
        port, control_port = free_ports(2)
        facts = {"name": "loop", "port": port, "control_port": control_port}
        return Site(init.create(root / "federation", list(data), **facts), data)

    return make


@pytest.fixture
def real(tiny, change):
    """Give a config for real labs on files of the tiny set: no labels, so no scoring."""

    def make(site: Site, **options) -> Config:
        # What tells a simulation where the labs are means nothing to real ones.
        return change(
            tiny,
            dataset=str(site.folder),
            label_key="",
            wait_for_labs=len(site.data),
            output=str(site.deployment.server / "runs"),
            **options,
        )

    return make


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
