"""Everything the server needs to go on after any round, in one file replaced atomically.

The file of the round before stays beside it: where the newer one is missing or damaged, the run
goes on from the older. Labs keep their private state of the last two rounds too.
"""

import math
import os
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common import log

from fedsc import tensors
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.files import link, replacing

_GLOBAL = "global"
_LAB = "lab "


@dataclass
class ServerState:
    """What the rounds change.

    Attributes
    ----------
    round
        Last finished round; 0 before the first.
    weights
        Global weights W_g.
    uploads
        Last valid upload of every lab, by lab.
    lambdas
        FedEMA's λ, by lab, once it is set.
    """

    round: int
    weights: Arrays
    uploads: dict[str, Arrays] = field(default_factory=dict)
    lambdas: dict[str, float] = field(default_factory=dict)


def previous(path: Path) -> Path:
    """Name the checkpoint of the round before: ``checkpoint.previous.safetensors``."""
    return path.with_suffix(f".previous{path.suffix}")


def save_checkpoint(path: Path, state: ServerState, fingerprint: str) -> None:
    """Write a state with its digest, and keep the one before as :func:`previous`.

    A crash at any moment leaves at least one of the two, whole.

    Raises
    ------
    RunError
        If the disk does not take it; the old files are as they were.
    """
    owners = {_GLOBAL: state.weights} | {_LAB + lab: w for lab, w in state.uploads.items()}
    about = {"round": state.round, "lambdas": state.lambdas, "fingerprint": fingerprint}
    content = tensors.pack_in_parts(tensors.joined(owners), about)
    with replacing(path) as partial:
        with partial.open("wb") as file:
            file.writelines(content)
        if path.exists():
            link(path, previous(path))


def load_checkpoint(path: Path, fingerprint: str, like: Arrays | None = None) -> ServerState | None:
    """Read the last state, or the one before where the last is missing or damaged.

    A damaged file is kept under another name, and the log says so.

    Parameters
    ----------
    path
        Of the newer checkpoint.
    fingerprint
        Of the run's options.
    like
        Weights of the same names and shapes, where the caller knows them.

    Returns
    -------
    ServerState or None
        ``None`` where none was written yet.

    Raises
    ------
    RunError
        If both files are damaged, or the newer one that is whole belongs to a run with other
        options.
    """
    damages = []
    for file in (path, previous(path)):
        if not file.exists():
            continue
        try:
            state = _read(file, fingerprint, like)
        except (ValueError, OSError) as error:
            damages.append((file, error))
            continue
        for damaged, damage in damages:
            aside = damaged.with_suffix(f".damaged{damaged.suffix}")
            os.replace(damaged, aside)
            log(
                WARNING,
                "%s is damaged (%s): going on from the checkpoint before it, of round %d; the "
                "damaged file is kept as %s",
                damaged.name,
                damage,
                state.round,
                aside.name,
                extra={"round": state.round, "reason": str(damage)},
            )
        return state
    if damages:
        said = "; ".join(f"{name.name}: {damage}" for name, damage in damages)
        raise RunError(f"{path.parent} holds no checkpoint that can be read ({said}): start anew")
    return None


def _read(path: Path, fingerprint: str, like: Arrays | None) -> ServerState:
    """Read one file.

    Raises
    ------
    RunError
        If it belongs to a run with other options.
    ValueError, OSError
        If it is damaged, or no checkpoint of such a run.
    """
    named, about = tensors.read(path)
    if not isinstance(about.get("fingerprint"), str):
        raise ValueError("not a checkpoint of FedSC")
    if about["fingerprint"] != fingerprint:
        raise RunError(
            f"{path}: written by a run with other options; resume with the options in its "
            "config.json, or start a new run"
        )
    owners = tensors.by_owner(named)
    for who, arrays in owners.items():
        if who != _GLOBAL and not who.startswith(_LAB):
            raise ValueError(f"a tensor of nobody, '{next(iter(arrays))}'")
    if _GLOBAL not in owners:
        raise ValueError("no global weights")
    for who, arrays in owners.items():
        _refuse_other_weights(who, arrays, owners[_GLOBAL] if like is None else like)
    return ServerState(
        round=_round(about.get("round")),
        weights=owners.pop(_GLOBAL),
        uploads={who.removeprefix(_LAB): arrays for who, arrays in owners.items()},
        lambdas=_lambdas(about.get("lambdas")),
    )


def _refuse_other_weights(who: str, arrays: Arrays, like: Arrays) -> None:
    if others := arrays.keys() ^ like.keys():
        names = ", ".join(sorted(others)[:3])
        raise ValueError(f"{who}: other tensors than the model has ({names})")
    for name, array in arrays.items():
        if (array.shape, array.dtype) != (like[name].shape, like[name].dtype):
            raise ValueError(f"{who}: {name} is {array.dtype} {array.shape}")
    if odd := tensors.not_finite(arrays):
        raise ValueError(f"{who}: {odd} is not finite")


def _round(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"round {value!r}")
    return value


def _lambdas(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(
        type(own) in (int, float) and math.isfinite(own) and own >= 0 for own in value.values()
    ):
        raise ValueError(f"lambdas {value!r:.60}")
    return value
