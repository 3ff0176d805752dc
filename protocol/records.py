"""How names, arrays and the preprocessing become records, and what records are called."""

from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedsc import tensors
from fedsc.data.preprocess import Preprocessing
from fedsc.federated.averaging import Arrays

DESCRIBE = "query.describe"
ASK = "query.ask"
EMBED = "query.embed"
FINISH = "query.finish"
TRAIN = "train"
ADDRESSEES = "labs"  # record of the labs that a message is for
TENSORS = "tensors"  # the one array of a record
_RECORD = "preprocessing"

_Value = TypeVar("_Value")


def key(what: str, lab: str) -> str:
    """Name a lab's record."""
    return f"{what}:{lab}"


def what_and_lab(name: str) -> tuple[str, str]:
    """Take the name of a record apart; the lab is ``""`` where it is of none."""
    what, _, lab = name.partition(":")
    return what, lab


def pack_addressees(labs: list[str]) -> ConfigRecord:
    """Name the labs that a message is for."""
    return ConfigRecord({"names": labs})


def is_for(content: RecordDict, lab: str) -> bool:
    """Say whether a message is for a lab; one that names none is for every lab of its node."""
    return ADDRESSEES not in content or lab in value_in(content, ADDRESSEES, "names", list)


def value_in(content: RecordDict, record: str, name: str, kind: type[_Value]) -> _Value:
    """Take a value out of a message.

    Raises
    ------
    KeyError, TypeError
        If there is none, or one of another type.
    """
    value = content[record][name]
    if not isinstance(value, kind):
        what = f"{record}: {name} is of type {type(value).__name__}"
        raise TypeError(f"{what}, should be of type {kind.__name__}")
    return value


def labs_in(content: RecordDict, what: str) -> list[str]:
    """List the labs with a record of this kind, sorted by name."""
    prefix = f"{what}:"
    return sorted(name.removeprefix(prefix) for name in content if name.startswith(prefix))


class _Weights(Array):
    """Weights that become bytes once somebody asks for them: a network, a pool of processes.

    Between two parts of one process nobody does. Nobody changes them either, so a copy is the
    same object.
    """

    __qualname__ = "Array"  # Flower writes it into a message, so one of its own arrives

    def __init__(self, arrays: Arrays) -> None:
        self.arrays, size = tensors.as_unpacked(arrays)
        self.dtype, self.shape, self.stype = "uint8", (size,), "safetensors"

    @cached_property
    def data(self) -> bytes:  # type: ignore[override]
        return tensors.pack(self.arrays)

    @property
    def untouched(self) -> bool:
        """Whether nobody has asked for the bytes, which can be changed."""
        return "data" not in vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return self if self.untouched else Array(self.dtype, self.shape, self.stype, self.data)

    def __reduce__(self) -> tuple[type[Array], tuple[Any, ...]]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Put named arrays into a record, as one array of bytes.

    Flower registers, sends, stores and confirms each array of a record by itself, which for the
    eighteen of an encoder took longer than to train it.
    """
    data = tensors.pack(arrays)
    return ArrayRecord({TENSORS: Array("uint8", (len(data),), "safetensors", data)})


def pack_weights(weights: Arrays) -> ArrayRecord:
    """Put weights into a record as :func:`pack_arrays` does, once somebody asks for the bytes.

    They may not be changed any more.
    """
    record = ArrayRecord()
    record[TENSORS] = _Weights(weights)  # given to its maker, they would be copied, as bytes
    return record


def unpack_arrays(record: object) -> Arrays:
    """Take named arrays out of a record; they may be such as cannot be written to.

    Raises
    ------
    KeyError, TypeError, ValueError
        If neither :func:`pack_arrays` nor :func:`pack_weights` made it.
    """
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"arrays come in an ArrayRecord, not in a {type(record).__name__}")
    packed = record[TENSORS]
    if isinstance(packed, _Weights) and packed.untouched:
        return dict(packed.arrays)
    return tensors.unpack(packed.data)


def bytes_of(array: Array) -> int:
    """Count the bytes an array has in a message, without packing what is not packed yet."""
    if isinstance(array, _Weights) and array.untouched:
        return array.shape[0]
    return len(array.data)


def content_bytes(content: RecordDict) -> int:
    """Count the bytes of arrays, texts and numbers, without what a transport adds around them.

    To serialise every message only to learn its size took longer than to train on it.
    """
    return sum(
        bytes_of(value) if isinstance(value, Array) else _length(value)
        for record in content.values()
        for value in record.values()
    )


def _length(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_length, value))
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else _NUMBER


_NUMBER = 8  # bytes


def pack_names(names: np.ndarray | tuple[str, ...] | list[str]) -> bytes:
    """Join gene names, one a line: far cheaper to send than a list of strings."""
    return "\n".join(names).encode()


def unpack_names(packed: bytes) -> np.ndarray:
    """Split what :func:`pack_names` joined."""
    return np.array(packed.decode().split("\n") if packed else [], dtype=object)


def pack_preprocessing(preprocessing: Preprocessing) -> RecordDict:
    """Put all a lab needs to standardise its cells into a record."""
    return RecordDict(
        {
            _RECORD: ConfigRecord(
                {
                    "vocabulary": pack_names(preprocessing.vocabulary),
                    "genes": pack_names(preprocessing.genes),
                    "scale": tensors.pack({"mean": preprocessing.mean, "std": preprocessing.std}),
                    "target-sum": float(preprocessing.target_sum),
                    "max-value": float(preprocessing.max_value),
                }
            )
        }
    )


def unpack_preprocessing(content: RecordDict) -> Preprocessing:
    """Take the preprocessing out of a message; the same object where it is the last one again."""
    packed = (value_in(content, _RECORD, name, bytes) for name in ("vocabulary", "genes", "scale"))
    numbers = (value_in(content, _RECORD, name, float) for name in ("target-sum", "max-value"))
    return _preprocessing(*packed, *numbers)


@lru_cache(maxsize=1)
def _preprocessing(
    vocabulary: bytes, genes: bytes, scale: bytes, target_sum: float, max_value: float
) -> Preprocessing:
    scales = tensors.unpack(scale)
    return Preprocessing(
        vocabulary=tuple(unpack_names(vocabulary)),
        genes=tuple(unpack_names(genes)),
        mean=scales["mean"],
        std=scales["std"],
        target_sum=target_sum,
        max_value=max_value,
    )
