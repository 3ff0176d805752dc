"""What a lab keeps on its own disk between rounds: target network, queue, normalisation layers.

And what its last upload left out. Disk is the one place it lives: it survives a restart, and a run
resumed at an earlier round finds the state of that round, because the last two rounds are kept.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common import log

from fedsc import tensors
from fedsc.data.coverage import Coverage
from fedsc.data.expression import LabCells
from fedsc.errors import DataError, RunError
from fedsc.federated.averaging import Arrays
from fedsc.federated.harmony_lab import HarmonyState
from fedsc.files import link, make_folder, replace
from fedsc.private import pack_private, read_private
from protocol.cells import cells_digest

_KEPT_ROUNDS = 2
_EMBEDDING = "embedding.safetensors"
INTEGRATION = "integration.safetensors"


def load_private(folder: Path, round_: int) -> Arrays:
    """Load the newest whole state of a round before ``round_``; empty when there is none.

    A state that is damaged, or not finite, would be refused in every round to come. It is left
    out, and the log says so: the lab goes on from the one before, or starts anew.

    Parameters
    ----------
    folder
        The lab's own folder.
    round_
        The round about to be trained, from 1.
    """
    earlier = [path for path in _listed(folder, round_) if _round(path) < round_]
    for path in reversed(earlier):
        try:
            private = _private(path)
            if odd := tensors.not_finite(private):
                raise ValueError(f"{odd} is not finite")
            return private
        except (ValueError, OSError) as error:
            log(WARNING, "%s is left out (%s)", path.name, error)
            _known.pop(folder, None)  # somebody else was at work in the folder
    if earlier:
        log(WARNING, "no private state of this lab is whole: it starts anew from the global model")
    return {}


def save_private(round_: int, states: Mapping[Path, Arrays]) -> None:
    """Keep the states after ``round_``, atomically; forget all but the last two rounds.

    The labs of a node share one file, written and synced once, which has a name in the folder of
    each. States of later rounds are left over from a run that was stopped and resumed; they go too.

    Parameters
    ----------
    round_
        The round that was trained.
    states
        By the lab's own folder.

    Raises
    ------
    RunError
        If the disk does not take them.
    """
    states = {folder: private for folder, private in states.items() if private}
    if not states:
        return
    before = {folder: _listed(folder, round_) for folder in states}
    paths = [
        (folder if files else make_folder(folder)) / f"private-{round_:06d}.safetensors"
        for folder, files in before.items()
    ]
    replace(paths[0], *pack_private({folder.name: own for folder, own in states.items()}))
    for path in paths[1:]:
        link(paths[0], path)
    for stale in [folder for folder in _known if folder.parent != paths[0].parent.parent]:
        del _known[stale]  # of another run
    linked, identity = paths[0].stat().st_nlink >= len(paths), _identity(paths[0])
    for path, (folder, private) in zip(paths, states.items(), strict=True):
        kept = [*(old for old in before[folder] if _round(old) < round_), path][-_KEPT_ROUNDS:]
        for old in set(before[folder]) - set(kept):
            old.unlink(missing_ok=True)
        _known[folder] = _Known(identity if linked else _identity(path), private, kept)


@dataclass(frozen=True)
class _Known:
    """What this process last wrote or read in a lab's folder.

    ``private`` is the content of the file of this ``identity``; ``files`` are all that were left in
    the folder when it was written, the last one this; none where it was read.
    """

    identity: tuple[int, ...]
    private: Arrays
    files: list[Path]


_known: dict[Path, _Known] = {}
"""By the lab's folder."""


def _private(path: Path) -> Arrays:
    """Give the state of one lab: from memory where its file is the one last written or read."""
    identity = _identity(path)
    if path.parent not in _known or _known[path.parent].identity != identity:
        for lab, own in read_private(path).items():
            folder = path.parent.with_name(lab) if lab else path.parent
            _known[folder] = _Known(identity, own, [])
    return _known[path.parent].private


def _listed(folder: Path, round_: int) -> list[Path]:
    """List the states in a folder, sorted; not anew where this process wrote the round before."""
    known = _known.get(folder)
    if known and known.files and _round(known.files[-1]) == round_ - 1:
        return known.files
    return _files(folder)


def _identity(path: Path) -> tuple[int, ...]:
    """Name the content of a file: what is written there later has another name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class KeptEmbedding:
    """What a lab keeps of its cells for the questions at the end of a run.

    Attributes
    ----------
    x
        Embedding, float32 (cells, dimensions).
    batches
        Batch of every cell within the lab, int64 (cells,).
    cells
        Of :func:`cells_digest`.
    coverage
        How much of what the model looks at the lab has measured.
    names
        Of the batches, where the lab has named a column of them.
    """

    x: np.ndarray
    batches: np.ndarray
    cells: str
    coverage: Coverage
    names: tuple[str, ...] = ()

    def of(self, expression: LabCells) -> "KeptEmbedding":
        """Give itself, for the cells it was made of.

        Raises
        ------
        DataError
            If it was made of other cells, or of the same in another order.
        """
        if cells_digest(expression) != self.cells:
            raise DataError.without_data(
                "the lab's file has changed since its cells were embedded: it holds other cells, "
                "or the same in another order; put the old file back, or resume the run, which "
                "embeds the file as it is now"
            )
        return self


def save_embedding(folder: Path, kept: KeptEmbedding) -> None:
    """Keep the embedding of the lab's cells, atomically; an integration of an older one goes.

    Raises
    ------
    RunError
        If the lab's disk does not take it.
    """
    about = {"cells": kept.cells, "coverage": vars(kept.coverage), "names": list(kept.names)}
    content = tensors.pack({"embedding": kept.x, "batches": kept.batches}, about)
    make_folder(folder)
    (folder / INTEGRATION).unlink(missing_ok=True)
    replace(folder / _EMBEDDING, content)


def load_embedding(folder: Path) -> KeptEmbedding:
    """Load the embedding of the lab's cells.

    Raises
    ------
    RunError
        If there is none, or it is damaged.
    """
    arrays, about = _read(folder / _EMBEDDING)
    covered, names = Coverage(**about["coverage"]), tuple(about["names"])
    return KeptEmbedding(arrays["embedding"], arrays["batches"], about["cells"], covered, names)


def save_integration(folder: Path, state: HarmonyState, names: Sequence[str] = ()) -> None:
    """Keep a lab's side of Harmony, atomically: its own correction, which never leaves it.

    Parameters
    ----------
    folder
        Of the lab's private state of the run.
    state
        What is kept.
    names
        Of the lab's batches: so that a later file can say of which its cells are.

    Raises
    ------
    RunError
        If the lab's disk does not take it.
    """
    replace(folder / INTEGRATION, tensors.pack(state.arrays(), {"batches": list(names)}))


def load_integration(folder: Path) -> HarmonyState | None:
    """Load a lab's side of Harmony; ``None`` before the first step.

    Raises
    ------
    RunError
        If it is damaged.
    """
    path = folder / INTEGRATION
    return HarmonyState.from_arrays(_read(path)[0]) if path.exists() else None


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    try:
        return tensors.read(path)
    except (ValueError, OSError) as error:
        outside = f"the lab's {path.name} cannot be read"
        raise RunError(f"{outside} ({error})", outside) from error


def _files(folder: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(folder) if name.startswith("private-")]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(".safetensors")]


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("private-"))
