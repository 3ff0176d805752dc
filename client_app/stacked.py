"""Train a node's labs together where it has a GPU; what cannot be stacked trains alone."""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from logging import INFO, WARNING

import torch
from flwr.common import log

from client_app.labs import Lab
from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.federated.averaging import Arrays
from fedsc.methods import load_objective, method_of
from fedsc.options import MethodOptions, TrainingOptions
from fedsc.stacked import Stack, why_not
from fedsc.training import Update


def train_stacked(
    labs: list[Lab],
    config: Config,
    starts: Mapping[str, Arrays],
    kept: Callable[[Lab], Arrays],
    preprocessing: Preprocessing,
    round_: int,
    device: str,
) -> dict[str, tuple[Update, float]]:
    """Train labs for a round, stacked.

    Parameters
    ----------
    labs
        Those that are to train; one whose cells or private state cannot be had is left out.
    starts
        Received weights of each lab.
    kept
        Loads what a lab kept from its last round.
    config, preprocessing, round_, device
        The run's, as :func:`fedsc.training.train_lab` is given their parts.

    Returns
    -------
    dict
        Of each lab its update and its part of the seconds; empty where labs cannot train stacked.
        The log says why.
    """
    started = time.perf_counter()
    try:
        cells, private = {}, {}
        for lab in labs:
            try:
                private[lab.name] = kept(lab)
                cells[lab.name] = lab.cells(preprocessing, config.data.scale)
            except Exception:  # it says so itself when its turn comes
                log(INFO, "lab %s is left out of the labs that train stacked", lab.name)
        if not cells:
            return {}
        stack = _stack(tuple(cells.items()), config.method, config.training, device)
        if stack is None:
            return {}
        updates = stack.train(starts, private, seed=config.run.seed, round_=round_)
    except Exception:  # of one lab, perhaps: alone, each has its own
        log(WARNING, "labs train one after the other in round %d:", round_, exc_info=True)
        _stack.cache_clear()
        return {}
    seconds = (time.perf_counter() - started) / len(updates)
    return {lab: (update, seconds) for lab, update in updates.items()}


def forget_stack() -> None:
    """Let go of the labs that were put on a device last."""
    _stack.cache_clear()


@lru_cache(maxsize=1)
def _stack(
    cells: tuple[tuple[str, CellMatrix], ...],
    method: MethodOptions,
    training: TrainingOptions,
    device: str,
) -> Stack | None:
    """Put labs on the device; kept until others are to train, or with other options."""
    objective = load_objective(method_of(method))
    reason = why_not(objective, [own for _, own in cells], method, training, device)
    if reason is not None:
        log(INFO, "labs train one after the other: %s", reason)
        return None
    graphs = torch.device(device).type == "cuda"
    return Stack(objective, dict(cells), method, training, device=device, graphs=graphs)
