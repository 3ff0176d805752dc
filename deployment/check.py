"""Say what is wrong with a deployment, all of it at once, each a sentence."""

import re
import shutil
import socket
import ssl
import stat
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from deployment import registration
from deployment.certificates import certificate_problems, public_of
from deployment.layout import LAB_FACTS, Deployment, load
from deployment.register import key_of
from fedsc.data.labs_toml import read_as, told_by_labs
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.errors import ConfigError, RunError

_SERVER_FILES = ("ca.crt", "server.crt", "server.key", "superexec.secret", "gate.conf")
_LAB_FILES = ("ca.crt", "supernode.key", "runtime.crt", "runtime.key", "superexec.secret")
_SECRETS = (".key", ".secret")
_LEAST_FREE = 2**30
_SECONDS = 5.0
# Flower's limits, and a second more on the side where a Date in whole seconds and its way count.
_MOST_BEHIND, _MOST_AHEAD = timedelta(minutes=5), timedelta(seconds=6)


def problems_of(
    root: Path, data: Mapping[str, Path], how: ReadAs = AS_IT_IS, batch_key: str = ""
) -> list[str]:
    """Check a whole deployment, or the folder of one lab.

    Parameters
    ----------
    root
        A deployment's folder, or a lab's.
    data
        Labs' files; where none is given, ``data/cells.h5ad`` in the lab's folder if there.
    how, batch_key
        How the run will read the files, and its column with batches.

    Raises
    ------
    ConfigError
        If the folder is neither, or data are given for a lab that is not there.
    """
    if (root / LAB_FACTS).exists():
        lab, server = _lab_facts(root)
        refuse_unknown(data, [lab])
        path = data.get(lab, root / "data" / "cells.h5ad")
        return [
            *_lab_problems(root, lab),
            *_data_problems(lab, path, how, batch_key),
            *_way_problems(root, server),
            *_disk_problems(root),
        ]
    deployment = load(root)
    refuse_unknown(data, list(deployment.labs))
    problems = [*_server_problems(deployment), *_disk_problems(root)]
    for lab in deployment.labs:
        folder = deployment.lab(lab)
        own = folder / "data" / "cells.h5ad"
        # A lab's folder may have left for the lab.
        if folder.exists():
            problems += _lab_problems(folder, lab)
            problems += _key_problems(deployment, lab)
        if lab in data or own.exists():
            problems += _data_problems(lab, data.get(lab, own), how, batch_key)
    return problems


def notes_of(root: Path, data: Mapping[str, Path]) -> list[str]:
    """Say what is not there yet, and so was not checked; parameters as :func:`problems_of`."""
    if (root / LAB_FACTS).exists():
        return []  # of a lab what is missing is a problem
    deployment, notes = load(root), []
    if not port_taken(deployment.control_port):
        notes.append(
            f"no server runs here (port {deployment.control_port}): whether labs are registered "
            "was not checked"
        )
    for lab in deployment.labs:
        own = deployment.lab(lab) / "data" / "cells.h5ad"
        if deployment.lab(lab).exists() and lab not in data and not own.exists():
            notes.append(
                f"lab {lab} has no data here: put them at {own}, or give --data {lab}=FILE"
            )
    return notes


def refuse_unknown(data: Mapping[str, Path], labs: Sequence[str]) -> None:
    """Refuse a file for a lab that is none.

    Raises
    ------
    ConfigError
        Naming it.
    """
    if unknown := sorted(set(data) - set(labs)):
        raise ConfigError(f"--data {unknown[0]}=…: no such lab; there are {', '.join(labs)}")


def _lab_facts(root: Path) -> tuple[str, str]:
    try:
        facts = tomllib.loads((root / LAB_FACTS).read_text())
        lab, server = str(facts["lab"]), str(facts["server"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{root / LAB_FACTS} cannot be read: {error}") from error
    if not re.fullmatch(r".+:\d{1,5}", server):
        raise ConfigError(f"{root / LAB_FACTS}: server = '{server}' should be HOST:PORT")
    return lab, server


def _server_problems(deployment: Deployment) -> list[str]:
    folder = deployment.server
    keys = [f"keys/{lab}.pub" for lab in deployment.labs]
    problems = _file_problems(folder, [*_SERVER_FILES, *keys])
    problems += _certificate_problems(folder, "server", "make a new one with fedsc deploy renew")
    authority = deployment.ca / "ca.key"
    if authority.exists():
        problems += _mode_problems(authority)
    ours = set()
    for port in (deployment.port, deployment.control_port):
        if not port_taken(port):
            continue
        if why := _tls_problem(f"127.0.0.1:{port}", folder / "ca.crt"):
            problems.append(f"port {port} is taken by something else: {why}")
        else:
            ours.add(port)
    if deployment.control_port in ours:
        problems += _registration_problems(deployment)
    return problems


def _registration_problems(deployment: Deployment) -> list[str]:
    try:
        known = {node["node-id"] for node in registration.nodes(deployment)}
    except RunError as error:
        return [f"the server at {deployment.control_address} does not answer: {error}"]
    ids, problems = deployment.nodes(), []
    for lab in deployment.labs:
        if ids.get(lab) not in known or key_of(deployment.register, lab) is None:
            problems.append(
                f"lab {lab}: its key is not registered at the server: fedsc deploy register "
                f"{deployment.root}"
            )
    return problems


def _lab_problems(folder: Path, lab: str) -> list[str]:
    problems = _file_problems(folder, _LAB_FILES)
    problems += _certificate_problems(
        folder, "runtime", "ask whoever made the deployment for a new one"
    )
    if not (folder / "state").is_dir():
        problems.append(f"{folder / 'state'} is missing: make that folder")
    return [f"lab {lab}: {problem}" for problem in problems]


def _key_problems(deployment: Deployment, lab: str) -> list[str]:
    private = deployment.lab(lab) / "supernode.key"
    if not private.exists():
        return []  # said already
    try:
        own = public_of(private.read_bytes()).split()[:2]
    except (ValueError, OSError):
        return [f"lab {lab}: {private} cannot be read as an OpenSSH key"]
    return [
        f"lab {lab}: {private} does not belong to {public}; the server will refuse this lab"
        for public in (
            deployment.server / "keys" / f"{lab}.pub",
            deployment.register / f"{lab}.pub",
        )
        if public.exists() and public.read_bytes().split()[:2] != own
    ]


def _data_problems(lab: str, path: Path, how: ReadAs, batch_key: str) -> list[str]:
    from fedsc.data.reading.read import examine  # scanpy and all that it needs

    try:
        own = told_by_labs(path.parent).get(lab, {})
    except ConfigError as error:
        return [f"lab {lab}: {error}"]
    found = examine(path, *read_as(own, how, batch_key)).problems
    return [f"lab {lab}: {path}: {problem}" for problem in found]


def _way_problems(folder: Path, server: str) -> list[str]:
    if why := _tls_problem(server, folder / "ca.crt"):
        return [f"the server {server}: {why}"]
    return _clock_problems(server, folder / "ca.crt")


def _file_problems(folder: Path, names: list[str] | tuple[str, ...]) -> list[str]:
    problems = []
    for name in names:
        path = folder / name
        try:
            with path.open("rb"):
                pass
        except FileNotFoundError:
            problems.append(f"{path} is missing")
            continue
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
            continue
        problems += _mode_problems(path)
    return problems


def _mode_problems(path: Path) -> list[str]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if path.suffix in _SECRETS and mode & 0o077:
        return [f"{path} can be read by others (mode {mode:o}): chmod 600 {path}"]
    return []


def _certificate_problems(
    folder: Path, name: str, remedy: str, now: datetime | None = None
) -> list[str]:
    certificate, ca, key = (folder / f for f in (f"{name}.crt", "ca.crt", f"{name}.key"))
    try:
        found = certificate_problems(
            certificate.read_bytes(), ca.read_bytes(), key.read_bytes(), now
        )
    except OSError:
        return []  # said already
    return [f"{certificate} {problem}; {remedy}" for problem in found]


def _disk_problems(root: Path) -> list[str]:
    free = shutil.disk_usage(root).free
    if free >= _LEAST_FREE:
        return []
    return [f"the disk of {root} has {free / 2**20:.0f} MB left: make at least 1 GB free"]


def _tls_problem(address: str, ca: Path) -> str:
    """Try a TLS handshake that trusts this deployment's authority alone; say why it fails."""
    if not ca.exists():
        return ""  # said already
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((host, int(port)), timeout=_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted by {ca} ({error.verify_message})"
    except ssl.SSLError as error:
        return f"it does not speak TLS as it should ({error.reason or error})"
    except OSError as error:
        return f"it cannot be reached ({error.strerror or error})"


def _clock_problems(address: str, ca: Path) -> list[str]:
    """Compare this machine's clock with the server's, which signatures are judged by."""
    try:
        context = ssl.create_default_context(cafile=str(ca))
        answer = httpx.head(f"https://{address}/", verify=context, timeout=_SECONDS)
        told = parsedate_to_datetime(answer.headers["Date"])
    except (httpx.HTTPError, OSError, KeyError, ValueError):
        return []  # nothing to compare with, or said already
    ahead = datetime.now(UTC) - told
    if -_MOST_BEHIND <= ahead <= _MOST_AHEAD:
        return []
    off = timedelta(seconds=round(abs(ahead).total_seconds()))
    way = "ahead of" if ahead > timedelta() else "behind"
    return [
        f"this machine's clock is {off} {way} the server's: what a lab signs is refused when it is "
        "more than 5 seconds ahead or 5 minutes behind; set both by network time"
    ]


def port_taken(port: int) -> bool:
    """Say whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0
