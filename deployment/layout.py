"""What lies where in a deployment's folder, and the few facts it was made with.

One folder a site, so that what is handed to whom is what lies in it:

=====================  ============================================================================
``ca/``                the certificate authority; stays with whoever made the deployment
``server/``            all the server needs, its state and its runs
``labs/NAME/``         all one lab needs, its state and its results
``flwr/``              Flower's connection to the server (``FLWR_HOME``) and the nodes' names
``docker-compose.yml`` server and labs on one machine, for a rehearsal
=====================  ============================================================================
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedsc.errors import ConfigError
from fedsc.files import replacing
from fedsc.names import RULE, is_name

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_FACTS = "deployment.toml"

Port = Annotated[int, Field(ge=1, le=65535)]


LAB_FACTS = "lab.toml"
"""In a lab's folder: who it is, and where its server."""


class Deployment(BaseModel):
    """A deployment's facts and paths; frozen, validated on construction.

    Attributes
    ----------
    root
        Its folder.
    name
        Name of Flower's connection to the server: ``flwr run . NAME``.
    hosts
        Names under which labs reach the server; the first is what they are told.
    port
        TCP port on which the server awaits labs.
    control_port
        TCP port, open on the server's own machine only, for ``flwr`` and ``fedsc status``.
    labs
        Names of the labs, sorted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: Path = Field(exclude=True)
    name: str = "fedsc"
    hosts: tuple[str, ...] = Field(("localhost",), min_length=1)
    port: Port = 8443
    control_port: Port = 8444
    labs: tuple[str, ...] = Field(min_length=1)

    @field_validator("hosts", "labs", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(f"{name!r} should be {RULE}")
        if name == "default":
            raise ValueError("'default' means something to Flower; take another")
        return name

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST_NAME.fullmatch(host):
                raise ValueError(f"{host!r} is no host name or IPv4 address")
        return hosts

    @field_validator("labs")
    @classmethod
    def _lab_names(cls, labs: tuple[str, ...]) -> tuple[str, ...]:
        for lab in labs:
            if not is_name(lab):
                raise ValueError(f"lab {lab!r}: should be {RULE}")
        # Names become folders and services, which not every system tells apart by case.
        if len({lab.lower() for lab in labs}) < len(labs):
            raise ValueError(f"labs {', '.join(labs)}: two of them have the same name")
        return tuple(sorted(labs))

    @model_validator(mode="after")
    def _two_ports(self) -> "Deployment":
        if self.port == self.control_port:
            raise ValueError(f"port and control_port are the same port, {self.port}")
        return self

    @property
    def ca(self) -> Path:
        """Folder of the certificate authority."""
        return self.root / "ca"

    @property
    def server(self) -> Path:
        """Folder of the server."""
        return self.root / "server"

    @property
    def register(self) -> Path:
        """Folder of the register: the labs' public keys that the server knows."""
        return self.server / "register"

    def lab(self, name: str) -> Path:
        """Folder of a lab."""
        return self.root / "labs" / name

    @property
    def flwr_home(self) -> Path:
        """Folder of Flower's own configuration, so that the user's stays as it is."""
        return self.root / "flwr"

    @property
    def logs(self) -> Path:
        """Folder of what the processes of ``fedsc deploy local`` say."""
        return self.root / "logs"

    @property
    def address(self) -> str:
        """``host:port`` of the server as labs reach it."""
        return f"{self.hosts[0]}:{self.port}"

    @property
    def control_address(self) -> str:
        """``host:port`` of the server as its own machine reaches it."""
        return f"127.0.0.1:{self.control_port}"

    def save(self) -> None:
        """Write the facts."""
        write(self.root / _FACTS, tomli_w.dumps(self.model_dump(mode="json")))

    def save_connection(self) -> None:
        """Write Flower's connection to the server; its path to the authority must be absolute."""
        connection = {
            "address": self.control_address,
            "root-certificates": str(self.server / "ca.crt"),
        }
        content = {"superlink": {"default": self.name, self.name: connection}}
        write(self.flwr_home / "config.toml", tomli_w.dumps(content))

    def nodes(self) -> dict[str, str]:
        """Give the id of each registered lab's node, by lab."""
        return read_nodes(self.flwr_home)

    def save_nodes(self, nodes: dict[str, str]) -> None:
        """Keep the ids of the labs' nodes, which Flower knows by number only."""
        write(self.flwr_home / _NODES, json.dumps(nodes, indent=2) + "\n")


_NODES = "nodes.json"


def read_nodes(flwr_home: Path) -> dict[str, str]:
    """Read the ids of the labs' nodes, by lab; empty when none is known."""
    try:
        nodes = json.loads((flwr_home / _NODES).read_text())
    except (OSError, ValueError):
        return {}
    return {str(lab): str(node) for lab, node in nodes.items()} if isinstance(nodes, dict) else {}


def load(root: Path) -> Deployment:
    """Read the facts of a deployment.

    Raises
    ------
    ConfigError
        If the folder is not a deployment, or its facts are damaged.
    """
    path = root / _FACTS
    try:
        facts = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"{root} is not a deployment (no {_FACTS}): make one with "
            f"fedsc deploy init --labs A,B --output {root}"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return checked(root, **facts)


def checked(root: Path, **facts: Any) -> Deployment:
    """Make a deployment from facts a person gave.

    Raises
    ------
    ConfigError
        If a fact has a wrong type or value, in words.
    """
    try:
        return Deployment(root=root.resolve(), **facts)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"deployment {root}: {'; '.join(problems)}") from error


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace a file in one step; it never exists with wider permissions than ``mode``.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.unlink(missing_ok=True)  # a left-over one would keep its permissions
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
