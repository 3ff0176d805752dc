"""Make the labs' names and keys known to the server, and ask it which labs are there."""

from pathlib import Path
from typing import Any

from deployment import flower
from deployment.layout import Deployment
from deployment.register import key_of, record
from fedsc.errors import RunError

_KNOWN_KEY = "Public key already in use"


def register(deployment: Deployment) -> list[str]:
    """Register every lab's name and public key that are not registered yet.

    Returns
    -------
    list of str
        Labs registered now.

    Raises
    ------
    RunError
        If a key cannot be read, or the server does not answer. If it refuses keys it has had
        before, when all other labs are registered.
    """
    deployment.save_connection()  # the folder may have been moved since it was made
    known = {node["node-id"] for node in nodes(deployment)}
    ids = {lab: node for lab, node in deployment.nodes().items() if node in known}
    new: list[str] = []
    refused: list[str] = []
    for lab in deployment.labs:
        key = deployment.server / "keys" / f"{lab}.pub"
        if lab in ids:
            if key_of(deployment.register, lab) is None:  # registered by an earlier version
                record(deployment.register, lab, _read(key))
            continue
        public = _read(key)
        try:
            answer = flower.ask(
                "supernode",
                "register",
                "--name",
                lab,
                str(key),
                deployment.name,
                home=deployment.flwr_home,
            )
        except RunError as error:
            if _KNOWN_KEY in str(error):
                refused.append(lab)
                continue
            raise RunError(f"lab {lab}: {error}") from error
        ids[lab] = str(answer["node-id"])
        new.append(lab)
        deployment.save_nodes(ids)  # at once: a node without a name is hard to tell from others
        record(deployment.register, lab, public)
    if refused:
        done = f"registered: {', '.join(new)}; but " if new else ""
        raise RunError(
            f"{done}the server has had the key of {', '.join(refused)} before, and "
            f"{deployment.flwr_home / 'nodes.json'} does not say as which node. If the lab was "
            "removed, take its name out of deployment.toml (a key that was taken off never comes "
            "back: with another key the lab may). If nodes.json was lost, put back your copy of it"
        )
    return new


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise RunError(f"{key} cannot be read: {error.strerror}") from error


def nodes(deployment: Deployment) -> list[dict[str, Any]]:
    """List what the server knows of its SuperNodes, those taken off its list left out.

    Raises
    ------
    RunError
        If the server does not answer.
    """
    answer = flower.ask("supernode", "list", deployment.name, home=deployment.flwr_home)
    return [node for node in answer["nodes"] if node["status"] != "unregistered"]


def online(deployment: Deployment) -> set[str]:
    """Give the labs that are online.

    Raises
    ------
    RunError
        If the server does not answer.
    """
    there = {node["node-id"] for node in nodes(deployment) if node["status"] == "online"}
    return {lab for lab, node in deployment.nodes().items() if node in there}
