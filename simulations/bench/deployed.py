"""``fedsc bench speed --deployed``: what a round of real processes takes, with TLS and keys.

The CPU time is the machine's own, of all its processes: Flower's programs start others, whose times
nobody adds up. So measure on a machine that does nothing else.
"""

import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import tomli_w

from deployment import flower, init, local
from deployment.layout import Deployment
from fedsc.config import Config
from fedsc.errors import RunError
from fedsc.run_files import LOG
from fedsc.run_log import read_entries
from simulations.flower import app_folder

_ROUNDS = 12
_LABS = 2
_PAUSE = 0.05  # seconds between two looks at the log
_SILENCE = 60.0  # seconds without a round before Flower is asked whether the run lives


def deployed_rounds() -> dict[str, list[float]]:
    """Measure rounds of two labs on this machine: 10x PBMC dealt at random, one local epoch.

    Returns
    -------
    dict
        ``deployed_round_s``, seconds between two rounds of the log, and ``deployed_round_cpu_s``,
        what all processes of the machine computed meanwhile; from the third round on.

    Raises
    ------
    RunError
        If the run fails.
    """
    from fedsc.cli.split import split

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with redirect_stdout(sys.stderr):  # its table is nobody's answer here
            split("10x_pbmc", folder / "data", labs=_LABS, partition="iid", label_key="cell_type")
        data = {path.stem: path for path in sorted((folder / "data").glob("*.h5ad"))}
        ports = {"port": local.free_port(), "control_port": local.free_port()}
        deployment = init.create(folder / "federation", list(data), name="speed", **ports)
        options = Config.of(
            rounds=_ROUNDS,
            local_epochs=1,
            wait_for_labs=_LABS,
            files=False,
            run_name="speed",
            output=str(deployment.server / "runs"),
        )
        with local.running(deployment, data):
            seen = _looks(deployment, options)
    return {
        "deployed_round_s": [then - now for (now, _), (then, _) in pairwise(seen[1:])],
        "deployed_round_cpu_s": [then - now for (_, now), (_, then) in pairwise(seen[1:])],
    }


def _looks(deployment: Deployment, options: Config) -> list[tuple[float, float]]:
    """Lead a run; give the time, and the machine's CPU time, at the end of each round."""
    file = deployment.root / "speed.toml"
    file.write_text(tomli_w.dumps(options.to_mapping()))
    with app_folder() as app:
        arguments = ("run", str(app), deployment.name, "--run-config", str(file))
        run_id = str(flower.ask(*arguments, home=deployment.flwr_home)["run-id"])
    log = Path(options.run.output) / options.run.name / LOG
    seen: list[tuple[float, float]] = []
    heard = time.monotonic()
    while len(seen) < _ROUNDS:
        lines = log.read_text().splitlines() if log.exists() else []
        said = [entry.fields for entry in read_entries(lines)]
        if failed := [line["message"] for line in said if "the run failed" in line["message"]]:
            raise RunError(f"the deployed run failed: {failed[-1]}")
        if sum("loss" in line for line in said) > len(seen):
            heard = time.monotonic()
            seen.append((heard, machine_cpu()))
        elif time.monotonic() > heard + _SILENCE:  # who is killed logs nothing
            heard = time.monotonic()
            which = ("ls", deployment.name, "--run-id", run_id)
            run = flower.ask(*which, home=deployment.flwr_home)["runs"][0]
            if run["status"] in ("finished:failed", "finished:stopped"):
                why = run.get("status-details") or run["status"]
                raise RunError(f"the deployed run failed: {why}")
        time.sleep(_PAUSE)
    return seen


def machine_cpu() -> float:
    """Give the seconds all cores of this machine have computed since it started (Linux)."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, *interrupts = map(int, first)
    return (user + nice + system + sum(interrupts[:2])) / os.sysconf("SC_CLK_TCK")
