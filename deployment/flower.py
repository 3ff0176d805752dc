"""Ask Flower's command line, the one public way to a SuperLink, and read its JSON."""

import json
import os
import subprocess
import sys
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
