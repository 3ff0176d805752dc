"""Ask Flower's command line, the one public way to a SuperLink, and read its JSON."""

import json
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from fedsc.errors import RunError

SETTINGS = {
    # Without this Flower installs every dependency, torch with CUDA included, once more per run.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
# Seconds a lab's executor waits before it looks for the next message; Flower's default is 1. The
# server's has one message a run to look for, and asking is not free for the SuperLink.
LAB_EXECUTOR = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
_SECONDS = 120
_PROBE = 5  # seconds for a port of this machine to answer


def environment(home: Path | None = None) -> dict[str, str]:
    """Give the environment Flower's programs run in.

    Parameters
    ----------
    home
        ``FLWR_HOME``: where they look for their configuration; default: as it is.
    """
    # The environment this interpreter belongs to may not be activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {} if home is None else {"FLWR_HOME": str(home)}
    return {**os.environ, **SETTINGS, **own, "PATH": path}


def superlink(name: str, home: Path) -> str:
    """Find which SuperLink ``flwr`` would ask, and that asking does not start one.

    ``flwr`` starts a SuperLink of its own on this machine where its configuration says ``:local:``,
    as the one it writes where there is none does.

    Parameters
    ----------
    name
        Flower's name of it; empty = its default.
    home
        ``FLWR_HOME``.

    Returns
    -------
    str
        Its name and address.

    Raises
    ------
    RunError
        If the configuration names no such SuperLink, or one on this machine that does not run.
    """
    path = home / "config.toml"
    advice = (
        "set FLWR_HOME as README.txt of the deployment says; a run of `fedsc run` is in its own "
        "folder (run.log, report.html)"
    )
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8")).get("superlink", {})
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): {advice}") from None
    name = name or str(known.get("default", ""))
    found = known.get(name)
    if not isinstance(found, dict):
        names = ", ".join(key for key, value in known.items() if isinstance(value, dict))
        raise RunError(f"{path} names no SuperLink '{name}'; it names: {names or 'none'}; {advice}")
    address = str(found.get("address", ""))
    if not address or address.startswith(":local"):
        from flwr.cli.constant import LOCAL_SUPERLINK_HTTP_API_PORT as PORT

        address = f"127.0.0.1:{PORT}"
        try:
            socket.create_connection(("127.0.0.1", int(PORT)), timeout=_PROBE).close()
        except OSError:
            raise RunError(
                f"SuperLink '{name}' of {path} is one of this machine ({address}) and does not "
                f"run: {advice}"
            ) from None
    return f"{name} ({address})"


def ask(*arguments: str, home: Path | None = None) -> dict[str, Any]:
    """Call ``flwr`` and read its JSON answer.

    Raises
    ------
    RunError
        If it fails, answers no JSON or takes more than two minutes; with what it said.
    """
    said = text(*arguments, "--format", "json", home=home)
    # Notices may stand before the JSON.
    found = said[said.find("{") :]
    try:
        answer: dict[str, Any] = json.loads(found)
    except ValueError:
        raise RunError(f"flwr {arguments[0]} failed: {said.strip()}") from None
    if not answer.get("success", True):
        said = str(answer.get("error-message", found))
        raise RunError(f"flwr {arguments[0]} failed: {' '.join(said.split())}")
    return answer


def text(*arguments: str, home: Path | None = None) -> str:
    """Call ``flwr`` and give all it said.

    Raises
    ------
    RunError
        If it takes more than two minutes.
    """
    try:
        done = subprocess.run(
            ["flwr", *arguments],
            # Wide: a log line is cut to the width of the terminal otherwise.
            env=environment(home) | {"COLUMNS": "1000"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"flwr {arguments[0]} did not end within {_SECONDS} s") from None
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr
