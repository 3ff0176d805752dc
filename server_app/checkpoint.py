"""Everything the server needs to go on after any round, in one file replaced atomically."""

from dataclasses import dataclass, field
from pathlib import Path

from fedsc import tensors
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.files import replace

_GLOBAL = "global"


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


def save_checkpoint(path: Path, state: ServerState, fingerprint: str) -> None:
    """Write a state; a crash at any moment leaves the old file or the new one, whole.

    Raises
    ------
    RunError
        If the disk does not take it; the old file is as it was.
    """
    owners = {_GLOBAL: state.weights} | {f"lab {lab}": w for lab, w in state.uploads.items()}
    named = {f"{who}/{name}": a for who, arrays in owners.items() for name, a in arrays.items()}
    about = {"round": state.round, "lambdas": state.lambdas, "fingerprint": fingerprint}
    replace(path, tensors.pack(named, about))


def load_checkpoint(path: Path, fingerprint: str) -> ServerState | None:
    """Read a state, or give ``None`` where none was written yet.

    Raises
    ------
    RunError
        If the file is damaged or belongs to a run with other options.
    """
    if not path.exists():
        return None
    try:
        named, about = tensors.read(path)
        written_by = about["fingerprint"]
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not a checkpoint of FedSC ({error})") from error
    if written_by != fingerprint:
        raise RunError(
            f"{path}: written by a run with other options; resume with the options in its "
            "config.json, or start a new run"
        )
    owners: dict[str, Arrays] = {}
    for name, array in named.items():
        who, _, tensor = name.partition("/")
        owners.setdefault(who, {})[tensor] = array
    return ServerState(
        round=int(about["round"]),
        weights=owners.pop(_GLOBAL),
        uploads={who.removeprefix("lab "): arrays for who, arrays in owners.items()},
        lambdas=about["lambdas"],
    )
