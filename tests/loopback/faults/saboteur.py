"""BYOL that misbehaves in a lab as a test says; found by Flower's processes over PYTHONPATH.

``$FAULTS/LAB.acts`` holds one act a line; each round of that lab takes the first.
"""

import os
import resource
import sys
import time
from pathlib import Path

import torch

from fedsc.ssl import byol
from fedsc.ssl.objective import Objective

FAULTS = Path(os.environ.get("FAULTS", "."))
SMALL = 50_000  # bytes: less than any weights


def lab():
    """Name the lab this process works for: each has a FLWR_HOME of its own."""
    parts = Path(os.environ.get("FLWR_HOME", "")).parts
    return parts[parts.index("labs") + 1] if "labs" in parts else ""


def fill_disk():
    """Let no file of this process grow, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))


def next_act():
    acts = FAULTS / f"{lab()}.acts"
    if not lab() or not acts.exists():
        return ""
    first, *rest = acts.read_text().split("\n") if acts.read_text() else [""]
    acts.write_text("\n".join(rest))
    return first


def hold():
    """Train for ever, until the test lets go."""
    (FAULTS / f"{lab()}.held").touch()
    while not (FAULTS / f"{lab()}.go").exists():
        time.sleep(0.1)
    (FAULTS / f"{lab()}.held").unlink()
    (FAULTS / f"{lab()}.go").unlink()


def step(state, views, descend, config):
    loss = byol.step(state, views, descend, config)
    act, weight = next_act(), "predictor.0.weight"
    if act == "nan":
        state.shared[weight].data.fill_(torch.nan)
    elif act == "shape":
        state.shared[weight] = state.shared[weight][:, :-1]
    elif act == "large":
        state.shared[weight] = torch.rand(5120, 5120)  # 100 MB
    elif act == "disk":
        fill_disk()
    elif act == "hold":
        hold()
    return loss


OBJECTIVE = Objective(byol.init, byol.begin, step)

if Path(sys.argv[0]).name == "flwr-serverapp" and (FAULTS / "server-disk-full").exists():
    fill_disk()
