"""Keep a mask-sc training run on disk, so that one cut short goes on with the same bits."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedsc.errors import RunError
from fedsc.models.mlp import Weights

_FILE = "mask-sc.safetensors"
_ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Training:
    """State of a training run between two epochs.

    Attributes
    ----------
    weights
        The network.
    teacher
        The frozen encoder the targets come from; empty when there is none.
    moments
        AdamW's state, ``{weight's name}/{step, exp_avg, exp_avg_sq}``; empty before the first step.
    losses
        Mean loss of every epoch done.
    """

    weights: Weights
    teacher: Weights
    moments: Weights = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def save(folder: Path, training: Training, fingerprint: str) -> None:
    """Write the state, atomically: a reader finds the old file or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"weights": training.weights, "teacher": training.teacher, "adam": training.moments}
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    unfinished = folder / f"{_FILE}.part"
    save_file(
        tensors,
        unfinished,
        {"fingerprint": fingerprint, "losses": json.dumps(training.losses)},
    )
    os.replace(unfinished, folder / _FILE)


def load(folder: Path, fingerprint: str, device: str) -> Training | None:
    """Read the state back.

    Parameters
    ----------
    folder
        Where :func:`save` wrote.
    fingerprint
        Of the data and options of the run that wants to go on.
    device
        Where the tensors shall lie.

    Returns
    -------
    Training or None
        ``None`` when there is nothing to go on with.

    Raises
    ------
    RunError
        If the file is broken, or is of other data or options.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    parts: dict[str, Weights] = {"weights": {}, "teacher": {}, "adam": {}}
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key).to(device)
    except SafetensorError as error:
        raise RunError(
            f"{path} is not a readable checkpoint ({error}); delete it to start anew"
        ) from None
    if about["fingerprint"] != fingerprint:
        raise RunError(
            f"{path} was written for other data or options; give them again, choose another "
            f"checkpoint folder, or delete it to start anew"
        )
    return Training(parts["weights"], parts["teacher"], parts["adam"], json.loads(about["losses"]))


def moments_of(optimizer: torch.optim.AdamW, weights: Weights) -> Weights:
    """Name the optimiser's state by the weights it belongs to."""
    return {
        f"{name}/{what}": optimizer.state[weight][what]
        for name, weight in weights.items()
        if weight in optimizer.state
        for what in _ADAM
    }


def give_moments(optimizer: torch.optim.AdamW, weights: Weights, moments: Weights) -> None:
    """Put a state named by :func:`moments_of` into a fresh optimiser."""
    for name, weight in weights.items():
        if moments:
            optimizer.state[weight] = {what: moments[f"{name}/{what}"] for what in _ADAM}
