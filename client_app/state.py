"""What a lab keeps on its own disk between rounds: target network, queue, normalisation layers.

Disk is the one place it lives: it survives a restart, and a run resumed at an earlier round finds
the state of that round, because the last two rounds are kept.
"""

import hashlib
from collections.abc import Sequence
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
from fedsc.files import make_folder, replace

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
    earlier = [path for path in _files(folder) if _round(path) < round_]
    for path in reversed(earlier):
        try:
            private, _ = tensors.read(path)
            odd = [name for name, array in private.items() if not np.isfinite(array).all()]
            if odd:
                raise ValueError(f"{odd[0]} is not finite")
            return private
        except (ValueError, OSError) as error:
            log(WARNING, "%s is left out (%s)", path.name, error)
    if earlier:
        log(WARNING, "no private state of this lab is whole: it starts anew from the global model")
    return {}


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
    replace(path, tensors.pack(private, {}))
    files = _files(folder)
    current = [old for old in files if _round(old) <= round_]
    for old in set(files) - set(current[-_KEPT_ROUNDS:]):
        old.unlink()


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
            raise DataError(
                "the lab's file has changed since its cells were embedded: it holds other cells, "
                "or the same in another order; put the old file back, or resume the run, which "
                "embeds the file as it is now"
            )
        return self


def cells_digest(expression: LabCells) -> str:
    """Tell cells from others by their names and totals, in their order.

    Names alone do not: where a file has none, its cells are numbered from 0 whatever they are.
    """
    digest = hashlib.sha256("\n".join(map(str, expression.cells)).encode())
    digest.update(expression.totals.tobytes())
    return digest.hexdigest()


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
        raise RunError(f"the lab's {path.name} cannot be read ({error})") from error


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("private-*.safetensors"))


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("private-"))
