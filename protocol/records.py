"""How names, arrays and the preprocessing become records, and what records are called."""

from functools import lru_cache

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
TENSORS = "tensors"  # the one array of a record


def key(what: str, lab: str) -> str:
    """Name a lab's record."""
    return f"{what}:{lab}"


def labs_in(content: RecordDict, what: str) -> list[str]:
    """List the labs with a record of this kind, sorted by name."""
    prefix = f"{what}:"
    return sorted(name.removeprefix(prefix) for name in content if name.startswith(prefix))


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Put named arrays into a record, as one array of bytes.

    Flower registers, sends, stores and confirms each array of a record by itself, which for the
    eighteen of an encoder took longer than to train it.
    """
    data = tensors.pack(arrays)
    return ArrayRecord({TENSORS: Array("uint8", (len(data),), "safetensors", data)})


def unpack_arrays(record: ArrayRecord) -> Arrays:
    """Take named arrays out of a record.

    Raises
    ------
    KeyError, ValueError
        If :func:`pack_arrays` did not make it.
    """
    return tensors.unpack(record[TENSORS].data)


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
            "preprocessing": ConfigRecord(
                {
                    "vocabulary": pack_names(preprocessing.vocabulary),
                    "genes": pack_names(preprocessing.genes),
                    "scale": tensors.pack({"mean": preprocessing.mean, "std": preprocessing.std}),
                    "target-sum": preprocessing.target_sum,
                    "max-value": preprocessing.max_value,
                }
            )
        }
    )


def unpack_preprocessing(content: RecordDict) -> Preprocessing:
    """Take the preprocessing out of a message; the same object where it is the last one again."""
    record = content["preprocessing"]
    names = "vocabulary", "genes", "scale", "target-sum", "max-value"
    return _preprocessing(*(record[name] for name in names))


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
