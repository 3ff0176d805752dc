"""Named tensors as bytes: one format, safetensors, on every disk and on the wire; never pickle.

What is kept with tensors in a file ends in a digest of all of it, so damage to any bit is found.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

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
        What JSON can hold, to be kept with them, and with it a digest of the whole content.
    """
    # safetensors copies memory as it lies, which of a transposed array is another array.
    in_order = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    metadata = None
    if about is not None:
        text = json.dumps(about, sort_keys=True)
        # It writes metadata in no fixed order, so everything goes under one key.
        metadata = {_ABOUT: f"{_digest(in_order, text)} {text}"}
    return safetensors.numpy.save(in_order, metadata)


def packed_size(tensors: Mapping[str, np.ndarray]) -> int:
    """Give at least as many bytes as :func:`pack` makes of tensors, without packing them."""
    return _HEADER + sum(
        array.nbytes + len(name.encode()) * _ESCAPED + _ENTRY for name, array in tensors.items()
    )


_HEADER, _ENTRY, _ESCAPED = 64, 256, 6  # bytes: of a file, of a tensor, of a character in JSON


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write what :func:`pack` packs, array after array, with no copy of any in memory.

    Parameters
    ----------
    file
        To write to.
    tensors
        By name; contiguous, of any of :data:`_TYPES`, possibly mapped from files.
    about
        As for :func:`pack`.
    """
    text = json.dumps(about, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {_ABOUT: f"{_digest(tensors, text)} {text}"}}
    end = 0
    # The widest types first, so that each array lies at a multiple of its width.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    for name in names:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape)}
        header[name]["data_offsets"] = [begin, end]
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little") + content)
    for name in names:
        file.write(tensors[name].reshape(-1).view(np.uint8).data)


_TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "BOOL": "|b1"}
_NAMES = {numpy: ours for ours, numpy in _TYPES.items()}


def mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map a file of tensors into memory, and give what was kept with them, as :func:`read` does.

    The whole content is held against its digest, a piece at a time. Arrays can only be read.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or an array is of none of :data:`_TYPES`.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
        # Opening it has checked that shapes, types and places fit the file and each other.
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            tensors = {name: _mapped(file, 8 + length, header[name]) for name in names}
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    return tensors, _about(tensors, metadata)


def _mapped(file: BinaryIO, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if begin == end:  # nothing cannot be mapped
        return np.empty(shape, dtype)
    # A plain array over the map: np.memmap costs at every slice.
    return np.asarray(np.memmap(file, dtype, "r", start + begin, shape))


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
    """Read a file of tensors and what was kept with them; empty where nothing was.

    The format packs nothing, so no more memory is taken than the file is long.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged: no such file, or not what its digest was made of.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    return tensors, _about(tensors, metadata)


def unpack_with_about(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Take tensors and what was kept with them out of bytes, as :func:`read` does of a file.

    Raises
    ------
    ValueError
        If they are damaged, or not what their digest was made of.
    """
    tensors = unpack(data)
    # safetensors gives no metadata of bytes; that they are whole, it has checked.
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return tensors, _about(tensors, metadata)


def _about(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, Any]:
    if _ABOUT not in metadata:
        return {}
    digest, _, text = metadata[_ABOUT].partition(" ")
    if digest != _digest(tensors, text):
        raise ValueError("the content does not match its digest: the file was damaged or changed")
    try:
        about = json.loads(text)
    except RecursionError as error:
        raise ValueError("what is kept with the tensors is nested too deep") from error
    if not isinstance(about, dict):
        raise ValueError("what is kept with the tensors is no record")
    return about


def _digest(tensors: Mapping[str, np.ndarray], about: str) -> str:
    """Hash names, types, shapes and values of contiguous tensors, and a text."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode() + b"\n")
        digest.update(array.reshape(-1).view(np.uint8).data)
    digest.update(about.encode(errors="surrogatepass"))
    return digest.hexdigest()
