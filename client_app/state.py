"""What a lab keeps on its own disk between rounds: target network, queue, normalisation layers.

Disk is the one place it lives: it survives a restart, and a run resumed at an earlier round finds
the state of that round, because the last two rounds are kept.
"""

import os
from pathlib import Path

import numpy as np
import safetensors.numpy

from fedsc.federated.averaging import Arrays

_KEPT_ROUNDS = 2


def load_private(folder: Path, round_: int) -> Arrays:
    """Load the newest state of a round before ``round_``; empty when there is none.

    Parameters
    ----------
    folder
        The lab's own folder.
    round_
        The round about to be trained, from 1.
    """
    earlier = [path for path in _files(folder) if _round(path) < round_]
    return safetensors.numpy.load_file(earlier[-1]) if earlier else {}


def save_private(folder: Path, round_: int, private: Arrays) -> None:
    """Keep the state after ``round_``, atomically; forget all but the last two rounds.

    States of later rounds are left over from a run that was stopped and resumed; they go too.
    """
    if not private:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"private-{round_:06d}.safetensors"
    partial = path.with_suffix(".partial")
    safetensors.numpy.save_file(private, partial)
    os.replace(partial, path)
    files = _files(folder)
    current = [old for old in files if _round(old) <= round_]
    for old in set(files) - set(current[-_KEPT_ROUNDS:]):
        old.unlink()


def save_embedding(folder: Path, embedding: np.ndarray) -> None:
    """Keep the embedding of the lab's cells, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "embedding.partial"
    safetensors.numpy.save_file({"embedding": embedding}, partial)
    os.replace(partial, folder / "embedding.safetensors")


def load_embedding(folder: Path) -> np.ndarray:
    """Load the embedding of the lab's cells, float32 (cells, dimensions)."""
    return safetensors.numpy.load_file(folder / "embedding.safetensors")["embedding"]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("private-*.safetensors"))


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("private-"))
