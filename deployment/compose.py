"""Write the files for containers and for people: compose files, the gate, instructions."""

import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from deployment import certificates, commands, flower
from deployment.layout import Deployment, write
from deployment.register import VARIABLE

GATE_IMAGE = "nginx:1.28.0-alpine"
RUNTIME_PORT = 9094
_SERVER, _LAB = PurePosixPath("/server"), PurePosixPath("/lab")
_ANYWHERE = "0.0.0.0"  # noqa: S104  inside a container whose networks are its own
_LARGEST_PIECE_MB = 64


def write_files(deployment: Deployment, new_labs: tuple[str, ...]) -> None:
    """Write all of them; a lab's own only for new labs, for the others may have edited theirs.

    What somebody may have edited here stays beside the new file, as ``.bak``.
    """
    server = deployment.server
    _write_anew(deployment.root / "docker-compose.yml", rehearsal(deployment))
    write(deployment.root / "README.txt", _readme(deployment))
    _write_new(deployment.root / ".env", _env(deployment))
    _write_anew(server / "docker-compose.yml", server_only(deployment))
    _write_anew(server / "gate.conf", gate(deployment))
    _write_new(server / ".env", _env(deployment))
    for lab in new_labs:
        folder = deployment.lab(lab)
        write(folder / "docker-compose.yml", lab_only(deployment, lab))
        facts = {"lab": lab, "address": deployment.address, "version": version("fedsc")}
        readme = _render("lab-README.txt.j2", **facts)
        write(folder / "README.txt", readme)
        _write_new(folder / ".env", _env(deployment, lab))


def rehearsal(deployment: Deployment) -> str:
    """Compose server and all labs on one machine."""
    labs = [
        _lab(lab, f"./labs/{lab}", f"./labs/{lab}/data", "cells.h5ad", f"gate:{deployment.port}")
        for lab in deployment.labs
    ]
    return _compose(
        deployment,
        f"FedSC: one server and labs {', '.join(deployment.labs)} on one machine.",
        server="./server",
        labs=labs,
    )


def server_only(deployment: Deployment) -> str:
    """Compose the server's machine."""
    return _compose(deployment, "The server of a FedSC federation.", server=".", labs=[])


def lab_only(deployment: Deployment, lab: str) -> str:
    """Compose one lab's machine."""
    own = _lab(lab, ".", "${FEDSC_DATA:-./data}", "${FEDSC_FILE:-cells.h5ad}", deployment.address)
    return _compose(deployment, f"Lab {lab} of a FedSC federation.", server="", labs=[own])


def gate(deployment: Deployment) -> str:
    """Configure the gate before the SuperLink (nginx)."""
    return _render(
        "gate.conf.j2",
        port=deployment.port,
        control_port=deployment.control_port,
        megabytes=_LARGEST_PIECE_MB,
    )


def _compose(deployment: Deployment, title: str, server: str, labs: list[dict[str, Any]]) -> str:
    superlink = f"superlink:{deployment.control_port}"
    return _render(
        "docker-compose.yml.j2",
        title=title,
        rehearsal=bool(server and labs),
        version=version("fedsc"),
        gate_image=GATE_IMAGE,
        server=server,
        port=deployment.port,
        control_port=deployment.control_port,
        runtime_port=RUNTIME_PORT,
        superlink=commands.superlink(_SERVER, _ANYWHERE, deployment.control_port),
        serverapp=commands.superexec(_SERVER, superlink),
        clientapp=commands.clientapp(_LAB, f"supernode:{RUNTIME_PORT}"),
        labs=labs,
        settings=flower.SETTINGS,
        lab_executor=flower.LAB_EXECUTOR,
        register_variable=VARIABLE,
    )


def _lab(name: str, folder: str, data: str, file: str, server: str) -> dict[str, Any]:
    cells = _LAB / "data" / file
    supernode = commands.supernode(_LAB, name, cells, server, _ANYWHERE, RUNTIME_PORT)
    return {"name": name, "folder": folder, "data": data, "supernode": supernode}


def _readme(deployment: Deployment) -> str:
    return _render(
        "README.txt.j2",
        labs=deployment.labs,
        root=deployment.root,
        name=deployment.name,
        address=deployment.address,
        control_port=deployment.control_port,
        flwr_home=deployment.flwr_home,
        output=deployment.server / "runs",
        server_days=certificates.SERVER_DAYS,
        ca_days=certificates.CA_DAYS,
    )


def _env(deployment: Deployment, lab: str = "") -> str:
    """Say where this machine's clone is and who owns the folder; a lab has to say so itself."""
    checkout = Path(__file__).parents[1]
    built_from = checkout if (checkout / "docker" / "Dockerfile").exists() and not lab else ""
    user = "" if lab else "{}:{}".format(*_user())
    # Docker's names are lower case; labs' names differ by more than case.
    project = "-".join(["fedsc", deployment.name, *([lab] if lab else [])])
    project = project.lower().replace(".", "-")
    return _render("env.j2", project=project, source=built_from, user=user, lab=lab)


def hand_over(paths: Iterable[Path]) -> None:
    """Give files and folders to whom the containers run as, when root has made them."""
    if os.getuid():
        return
    for path in paths:
        for inner in (path, *path.rglob("*")):
            os.chown(inner, *_user(), follow_symlinks=False)


def _user() -> tuple[int, int]:
    """Say who the containers run as: whoever makes the deployment, but never root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (1000, 1000)


def _write_anew(path: Path, content: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != content:
        os.replace(path, path.with_name(f"{path.name}.bak"))
    write(path, content)


def _write_new(path: Path, content: str) -> None:
    if not path.exists():
        write(path, content)


def _render(template: str, **values: object) -> str:
    # What is rendered is configuration and text, never HTML.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("deployment"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
