"""Named tensors as bytes: one format, safetensors, on every disk and on the wire; never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_ABOUT = "fedsc"


def pack(tensors: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None) -> bytes:
    """Put tensors into bytes; the same tensors give the same bytes.

    Parameters
    ----------
    tensors
        By name; of any memory layout and any of safetensors' types.
    about
        What JSON can hold, to be kept with them.
    """
    # safetensors writes metadata in no fixed order, so everything goes under one key.
    metadata = None if about is None else {_ABOUT: json.dumps(about, sort_keys=True)}
    # It copies memory as it lies, which of a transposed array is another array.
    in_order = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return safetensors.numpy.save(in_order, metadata)


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Take the tensors out of bytes, whoever wrote them.

    Raises
    ------
    ValueError
        If they are damaged, or hold a type that NumPy has not.
    """
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:
        raise ValueError(f"tensors of type {error.args[0]}") from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of tensors and what was kept with them.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
