"""Named tensors as bytes: one format, safetensors, on every disk and on the wire; never pickle.

What is kept with tensors in a file ends in a digest of all of it, so damage to any bit is found.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
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
    return b"".join(_parts(tensors, about, _sha256))


def pack_in_parts(
    tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> list[bytes | memoryview]:
    """Put what is large, or written every round, into the parts of a file, one after the other.

    Nothing is copied, and the digest finds damage as :func:`pack`'s does, in a tenth of the time.
    """
    return _parts(tensors, about, _gmac)


def _parts(
    tensors: Mapping[str, np.ndarray],
    about: Mapping[str, Any] | None,
    digest: Callable[[Iterator[bytes | memoryview]], str],
) -> list[bytes | memoryview]:
    """Do what safetensors does, which takes three times as long and copies everything."""
    plain = {name: _plain(array) for name, array in tensors.items()}
    order, entries = _layout(_likes(plain))
    if about is not None:
        text = json.dumps(about, sort_keys=True)
        # One key: safetensors writes several in no fixed order.
        metadata = _json({_ABOUT: f"{digest(_content(plain, text))} {text}"})
        entries = f'"__metadata__":{metadata}' + ("," if entries else "") + entries
    header = _header(entries)
    return [len(header).to_bytes(8, "little"), header, *(_raw(plain[name]) for name in order)]


def _header(entries: str) -> bytes:
    header = f"{{{entries}}}".encode()
    return header + b" " * (-len(header) % 8)


def as_unpacked(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Give what :func:`unpack` makes of what :func:`pack` makes of tensors, without a copy.

    Returns
    -------
    tuple
        Tensors of the same bits, which cannot be written to, and how many bytes they would be.
    """
    plain = {name: _plain(array).view() for name, array in tensors.items()}
    order, entries = _layout(_likes(plain))
    size = 8 + len(_header(entries))
    for array in plain.values():
        array.flags.writeable = False
        size += array.nbytes
    return {name: plain[name] for name in order}, size


_Likes = tuple[tuple[str, str, tuple[int, ...]], ...]


def _likes(plain: Mapping[str, np.ndarray]) -> _Likes:
    return tuple((name, array.dtype.str, array.shape) for name, array in plain.items())


@lru_cache(maxsize=16)
def _layout(likes: _Likes) -> tuple[tuple[str, ...], str]:
    """Put names, types and shapes into the order of a file, and say where each tensor lies."""
    order = sorted(likes, key=lambda like: (_RANKS[like[1]], like[0]))
    entries, end = {}, 0
    for name, kind, shape in order:
        start, end = end, end + np.dtype(kind).itemsize * math.prod(shape)
        entries[name] = {"dtype": _CODES[kind], "shape": shape, "data_offsets": [start, end]}
    return tuple(entries), _json(entries)[1:-1]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_CODES = {
    "<u8": "U64", "<i8": "I64", "<f8": "F64", "<f4": "F32", "<u4": "U32", "<i4": "I32",
    "<f2": "F16", "<u2": "U16", "<i2": "I16", "|i1": "I8", "|u1": "U8", "|b1": "BOOL",
}  # fmt: skip
"""What safetensors calls NumPy's types, in the order in which they lie in a file."""

_KINDS = {code: kind for kind, code in _CODES.items()}
_RANKS = {kind: rank for rank, kind in enumerate(_CODES)}


def _plain(array: np.ndarray) -> np.ndarray:
    """Put values one after the other, each with its lowest byte first."""
    if array.dtype.str in _CODES and array.flags.c_contiguous:
        return array
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def packed_size(tensors: Mapping[str, np.ndarray]) -> int:
    """Give at least as many bytes as :func:`pack` makes of tensors, without packing them."""
    return _HEADER + sum(
        array.nbytes + len(name.encode()) * _ESCAPED + _ENTRY for name, array in tensors.items()
    )


_HEADER, _ENTRY, _ESCAPED = 64, 256, 6  # bytes: of a file, of a tensor, of a character in JSON


def mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map a file of tensors into memory, and give what was kept with them, as :func:`read` does.

    The whole content is held against its digest, a piece at a time. Arrays can only be read.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or an array is of a type that NumPy has not.
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
    dtype, shape = np.dtype(_KINDS[entry["dtype"]]), tuple(entry["shape"])
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


def joined(owners: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Name the tensors of several owners ``OWNER/NAME``; no owner's name has a slash."""
    return {f"{who}/{name}": a for who, own in owners.items() for name, a in own.items()}


def by_owner(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Sort by owner what :func:`joined` put together; ``""`` owns what has no owner."""
    owners: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        who, slash, own = name.partition("/")
        owners.setdefault(who if slash else "", {})[own if slash else name] = array
    return owners


def not_finite(tensors: Mapping[str, np.ndarray]) -> str:
    """Name a tensor that holds NaN or infinity; ``""`` where none does."""
    with np.errstate(over="ignore", invalid="ignore"):
        # Their sum shows in a fifth of the time that all are finite; large ones may exceed it.
        if math.isfinite(sum(float(array.sum()) for array in tensors.values())):
            return ""
    return next((name for name, array in tensors.items() if not np.isfinite(array).all()), "")


def _about(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, Any]:
    if _ABOUT not in metadata:
        return {}
    digest, _, text = metadata[_ABOUT].partition(" ")
    expected = (_gmac if digest.startswith(_GMAC) else _sha256)(_content(tensors, text))
    if digest != expected:
        raise ValueError("the content does not match its digest: the file was damaged or changed")
    try:
        about = json.loads(text)
    except RecursionError as error:
        raise ValueError("what is kept with the tensors is nested too deep") from error
    if not isinstance(about, dict):
        raise ValueError("what is kept with the tensors is no record")
    return about


def _content(tensors: Mapping[str, np.ndarray], about: str) -> Iterator[bytes | memoryview]:
    """Give names, types, shapes and values of plain tensors, and a text."""
    for name, array in sorted(tensors.items()):
        yield _line(name, array.dtype, array.shape)
        yield _raw(array)
    yield about.encode(errors="surrogatepass")


@lru_cache(maxsize=4096)
def _line(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    return json.dumps([name, str(dtype), shape]).encode() + b"\n"


def _raw(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _sha256(parts: Iterator[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


_GMAC = "gmac:"


def _gmac(parts: Iterator[bytes | memoryview]) -> str:
    """Take the 128-bit tag of AES-GCM (NIST SP 800-38D) under a key that is no secret.

    It finds damage, with a chance of less than 2⁻⁹⁰ that it does not. As with a bare SHA-256,
    whoever means to change a file can make its digest anew.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    tag = Cipher(algorithms.AES(bytes(16)), modes.GCM(bytes(12))).encryptor()
    for part in parts:
        tag.authenticate_additional_data(part)
    tag.finalize()
    return _GMAC + tag.tag.hex()
