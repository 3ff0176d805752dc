"""What a lab keeps on its own disk between rounds: target network, queue, normalisation layers.

Disk is the one place it lives: it survives a restart, and a run resumed at an earlier round finds
the state of that round, because the last two rounds are kept.
"""

from pathlib import Path

import numpy as np

from fedsc import tensors
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.files import make_folder, replace

_KEPT_ROUNDS = 2


def load_private(folder: Path, round_: int) -> Arrays:
    """Load the newest state of a round before ``round_``; empty when there is none.

    Parameters
    ----------
    folder
        The lab's own folder.
    round_
        The round about to be trained, from 1.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    earlier = [path for path in _files(folder) if _round(path) < round_]
    return _load(earlier[-1]) if earlier else {}


def save_private(folder: Path, round_: int, private: Arrays) -> None:
    """Keep the state after ``round_``, atomically; forget all but the last two rounds.

    States of later rounds are left over from a run that was stopped and resumed; they go too.

    Raises
    ------
    RunError
        If the lab's disk does not take it.
    """
    if not private:
        return
    path = make_folder(folder) / f"private-{round_:06d}.safetensors"
    replace(path, tensors.pack(private))
    files = _files(folder)
    current = [old for old in files if _round(old) <= round_]
    for old in set(files) - set(current[-_KEPT_ROUNDS:]):
        old.unlink()


def save_embedding(folder: Path, embedding: np.ndarray) -> None:
    """Keep the embedding of the lab's cells, atomically.

    Raises
    ------
    RunError
        If the lab's disk does not take it.
    """
    content = tensors.pack({"embedding": embedding})
    replace(make_folder(folder) / "embedding.safetensors", content)


def load_embedding(folder: Path) -> np.ndarray:
    """Load the embedding of the lab's cells, float32 (cells, dimensions).

    Raises
    ------
    RunError
        If there is none, or it is damaged.
    """
    return _load(folder / "embedding.safetensors")["embedding"]


def _load(path: Path) -> Arrays:
    try:
        return tensors.read(path)[0]
    except (ValueError, OSError) as error:
        raise RunError(f"the lab's {path.name} cannot be read ({error})") from error


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("private-*.safetensors"))


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("private-"))
