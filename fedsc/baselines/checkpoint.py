"""Keep a phase of training on disk, so that one cut short goes on with the same bits."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsc import files, tensors
from fedsc.data.preprocess import CellMatrix
from fedsc.errors import RunError


@dataclass(frozen=True)
class Saved:
    """State of a phase between two epochs.

    Attributes
    ----------
    weights
        The network, and whatever else the phase carries from epoch to epoch.
    optimizer
        Its state, ``{number of the parameter}/{what}``.
    losses
        Mean loss of every epoch done.
    converged
        Whether the phase ended before its last epoch.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    converged: bool = False


def fingerprint(cells: CellMatrix, preset: Any, *choices: str | float | None) -> str:
    """Hash what decides a phase's result: a checkpoint of anything else must not be gone on with.

    Parameters
    ----------
    cells
        The data.
    preset
        Dataclass of the method's options.
    *choices
        Seed, number of clusters and the like.
    """
    digest = hashlib.sha256(json.dumps([asdict(preset), choices, cells.values.shape]).encode())
    for array in (cells.values.data, cells.values.indices, cells.mean, cells.std):
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(path: Path, saved: Saved, of: str) -> None:
    """Write the state in the place of an older one.

    Raises
    ------
    RunError
        If it cannot be written, saying why.
    """
    files.make_folder(path.parent)
    parts = {"weights": saved.weights, "optimizer": saved.optimizer}
    arrays = {
        f"{part}/{name}": tensor.detach().cpu().numpy()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    about = {"fingerprint": of, "losses": saved.losses, "converged": saved.converged}
    files.replace(path, tensors.pack(arrays, about))


def load(path: Path, of: str) -> Saved | None:
    """Read a state back, onto the CPU.

    Parameters
    ----------
    path
        Where :func:`save` wrote.
    of
        Fingerprint of the phase that wants to go on.

    Returns
    -------
    Saved or None
        ``None`` when there is nothing to go on with.

    Raises
    ------
    RunError
        If the file is broken or no checkpoint, or is of other data or options.
    """
    if not path.exists():
        return None
    try:
        arrays, about = tensors.read(path)
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for key, array in arrays.items():
            part, name = key.split("/", 1)
            parts[part][name] = torch.tensor(array)
        fingerprint, losses, converged = (about[n] for n in ("fingerprint", "losses", "converged"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is not a readable checkpoint ({error}); delete it to start anew"
        ) from error
    if fingerprint != of:
        raise RunError(
            f"{path} was written for other data or options; give them again, choose another "
            "output folder, or delete it to start anew"
        )
    return Saved(**parts, losses=losses, converged=converged)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's state (all of it tensors, as of Adam, AdamW and Adadelta)."""
    return {
        f"{number}/{what}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for what, tensor in state.items()
    }


def give_optimizer_state(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Put a state flattened by :func:`optimizer_state` into a fresh optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        number, what = name.split("/")
        state.setdefault(int(number), {})[what] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
