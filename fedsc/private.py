"""The file in which the labs of a node keep their private state of a round.

That of one lab holds its tensors by name; that of several ``LAB/NAME``, and it says so.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedsc import tensors

_LABS = "labs"


def pack_private(states: Mapping[str, Mapping[str, np.ndarray]]) -> list[bytes | memoryview]:
    """Put the states of some labs, by lab, into the parts of a file, with a digest."""
    if len(states) == 1:
        (only,) = states.values()
        return tensors.pack_in_parts(only, {})
    return tensors.pack_in_parts(tensors.joined(states), {_LABS: list(states)})


def read_private(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the states of some labs, by lab; that of the only one is under ``""``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged.
    """
    named, about = tensors.read(path)
    return tensors.by_owner(named) if _LABS in about else {"": named}
