"""Make a deployment's folder: certificates, keys, secrets, containers, instructions."""

import secrets
from pathlib import Path

import tomli_w

from deployment import certificates, compose
from deployment.certificates import Pair
from deployment.layout import LAB_FACTS, Deployment, checked, write
from fedsc.errors import ConfigError
from fedsc.files import make_folder

SECRET = 0o600
_NAMES_INSIDE = ("superlink", "gate")


def create(root: Path, labs: list[str], **facts: object) -> Deployment:
    """Make a deployment in a new or empty folder.

    Parameters
    ----------
    root
        Its folder.
    labs
        Names of the labs.
    facts
        Other attributes of :class:`Deployment`.

    Raises
    ------
    ConfigError
        If a fact is wrong, or the folder holds something already.
    """
    deployment = checked(root, labs=labs, **facts)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root} exists and is not empty: nothing was written; name another")
    for folder in (
        deployment.ca,
        deployment.server / "keys",
        deployment.register,
        deployment.server / "state",
        deployment.server / "runs",
        deployment.flwr_home,
    ):
        make_folder(folder, 0o700)
    write(
        deployment.root / ".gitignore",
        "# Keys, certificates and results do not belong in git.\n*\n",
    )

    ca = certificates.make_ca(f"FedSC {deployment.name}")
    write(deployment.ca / "ca.key", ca.key, SECRET)
    write(deployment.ca / "ca.crt", ca.certificate)
    write(deployment.server / "ca.crt", ca.certificate)
    write(deployment.server / "superexec.secret", secrets.token_hex(32), SECRET)
    _write_server_certificate(deployment, ca)
    for lab in deployment.labs:
        _make_lab(deployment, lab, ca)
    deployment.save_connection()
    compose.write_files(deployment, deployment.labs)
    compose.hand_over([deployment.server, *map(deployment.lab, deployment.labs)])
    deployment.save()
    return deployment


def add(deployment: Deployment, labs: list[str]) -> Deployment:
    """Add labs; what is there stays as it is, the files for containers are written anew.

    Raises
    ------
    ConfigError
        If a name is taken or wrong, or the authority's key is not here.
    """
    facts = deployment.model_dump() | {"labs": [*deployment.labs, *labs]}
    grown = checked(deployment.root, **facts)
    ca = _read_ca(deployment)
    for lab in labs:
        _make_lab(grown, lab, ca)
    compose.write_files(grown, tuple(labs))
    compose.hand_over(map(grown.lab, labs))
    grown.save()
    return grown


def renew(deployment: Deployment) -> None:
    """Issue a new certificate for the server; labs need nothing new.

    Raises
    ------
    ConfigError
        If the authority's key is not here.
    """
    _write_server_certificate(deployment, _read_ca(deployment))
    compose.hand_over(deployment.server / f"server.{kind}" for kind in ("crt", "key"))


def _write_server_certificate(deployment: Deployment, ca: Pair) -> None:
    pair = certificates.issue(ca, [*deployment.hosts, *_NAMES_INSIDE])
    write(deployment.server / "server.crt", pair.certificate)
    write(deployment.server / "server.key", pair.key, SECRET)


def _make_lab(deployment: Deployment, lab: str, ca: Pair) -> None:
    folder = deployment.lab(lab)
    for inner in ("data", "state"):
        make_folder(folder / inner, 0o700)
    private, public = certificates.make_supernode_key()
    runtime = certificates.issue(ca, ["supernode"], days=certificates.CA_DAYS)
    write(folder / "ca.crt", ca.certificate)
    write(folder / "supernode.key", private, SECRET)
    write(folder / "runtime.crt", runtime.certificate)
    write(folder / "runtime.key", runtime.key, SECRET)
    write(folder / "superexec.secret", secrets.token_hex(32), SECRET)
    facts = {"lab": lab, "server": deployment.address}
    write(folder / LAB_FACTS, tomli_w.dumps(facts))
    write(deployment.server / "keys" / f"{lab}.pub", public + b"\n")


def _read_ca(deployment: Deployment) -> Pair:
    try:
        return Pair(
            (deployment.ca / "ca.crt").read_bytes(), (deployment.ca / "ca.key").read_bytes()
        )
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; new certificates need the authority's key, so "
            "do this where the deployment was made"
        ) from error
