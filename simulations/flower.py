"""Run a simulation under Flower proper (SuperLink, Ray): ``--engine flower``.

``flwr run`` returns at once, its log stream exits 0 even when the run failed and Ctrl-C ends the
stream alone; :func:`run_flower` blocks, stops the run on Ctrl-C and raises what went wrong.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from deployment import flower
from fedsc.config import Config
from fedsc.errors import RunError
from fedsc.run_files import CONFIG, PREPROCESSING

_PACKAGES = (
    "fedsc",
    "protocol",
    "server_app",
    "client_app",
    "partitioning",
    "simulations",
    "deployment",
)


def run_flower(config: Config, nodes: int = 2, gpus: float = 0.0) -> None:
    """Run a whole simulation on Flower's local SuperLink and wait for its end.

    On a busy machine Ray may fail to start: it gives its own agent 15 s, which cannot be set (Ray
    2.55.1; its issue 65983). The run is then started again, where it is known by name.

    Parameters
    ----------
    config
        Options of the run; paths must be absolute, as the SuperLink has a folder of its own.
    nodes
        Simulated nodes; the result does not depend on it.
    gpus
        Share of a GPU each node gets.

    Raises
    ------
    RunError
        If the run could not be started or failed, with the reason.
    """
    run = config.run
    folder = Path(run.resume) if run.resume else Path(run.output) / run.name
    for left in reversed(range(_TRIES)):
        why = _run_once(config, nodes, gpus)
        if not why:
            return
        if _NO_REASON not in why:
            raise RunError(why)
        # No lab has answered yet, so it was the start that failed.
        again = (folder / CONFIG).exists() and not (folder / PREPROCESSING).exists()
        if not (left and again):
            raise RunError(_RAY_CRASHED)
        config = config.replace(resume=str(folder))


def _run_once(config: Config, nodes: int, gpus: float) -> str:
    """Run a simulation; say why it failed, nothing when it did not."""
    with app_folder() as app, tempfile.TemporaryDirectory() as scratch:
        options = Path(scratch) / "run.toml"
        options.write_text(tomli_w.dumps(config.to_mapping()), encoding="utf-8")
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        if gpus:
            federation += f" client-resources-num-gpus={gpus}"
        started = _start(str(app), "--run-config", str(options), "--federation-config", federation)
    run_id = str(started["run-id"])
    try:
        while not (run := _follow(run_id))["status"].startswith("finished"):
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        flower.ask("stop", run_id)
        raise
    if run["status"] == "finished:completed":
        return ""
    return str(run.get("status-details") or run["status"])


def _follow(run_id: str) -> dict[str, Any]:
    """Follow the log of a run, to its end if the stream does not break; say how the run stands.

    The text is in the run folder, and the exit code is not to be trusted. A session of its own
    keeps Ctrl-C from reaching it before us.
    """
    subprocess.run(
        ["flwr", "log", run_id, "--stream"],
        env=flower.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    run: dict[str, Any] = flower.ask("ls", "--run-id", run_id)["runs"][0]
    return run


_PAUSE = 1.0  # seconds before a stream that broke is opened again
_TRIES = 3
_TOO_SLOW = "Failed to start local SuperLink within"
_NO_REASON = "An error was encountered. Ending simulation."
_RAY_CRASHED = (
    "Ray, in which Flower runs the nodes, did not start or crashed; on a busy machine it may start "
    "too slowly, or memory is short. Run it again when less runs beside it, or use "
    "--engine inprocess, which gives the same bits without Ray"
)


def _start(*arguments: str) -> dict[str, Any]:
    """Start a run, and Flower's local SuperLink with it, which has 15 s to come up each time.

    Raises
    ------
    RunError
        If it does not come up, saying what to do, or the run is refused.
    """
    for _ in range(_TRIES):
        try:
            return flower.ask("run", *arguments)
        except RunError as error:
            if _TOO_SLOW not in " ".join(str(error).split()):
                raise
    raise RunError(
        f"Flower's local SuperLink did not start within 15 s, {_TRIES} times: the machine is too "
        "busy. Run it again when less runs beside it, or use --engine inprocess, which gives the "
        "same bits without it"
    )


@contextmanager
def app_folder() -> Iterator[Path]:
    """Give a folder Flower can bundle: the checkout, or the installed packages put together."""
    root = Path(str(files("fedsc"))).parent
    if (root / "pyproject.toml").exists():
        yield root
        return
    with tempfile.TemporaryDirectory() as scratch:
        app = Path(scratch)
        for package in _PACKAGES:
            shutil.copytree(
                root / package, app / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(app / "fedsc" / "app.toml", app / "pyproject.toml")
        yield app
