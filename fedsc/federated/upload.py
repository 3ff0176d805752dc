"""Uploads in half the bytes: how far a round has moved each weight, rounded, with error feedback.

What rounding leaves out stays in the lab and is added to its next upload (error feedback: Seide et
al. 2014, "1-bit stochastic gradient descent and its application to data-parallel distributed
training of speech DNNs", §3; Karimireddy et al. 2019, "Error feedback fixes SignSGD and other
gradient compression schemes", algorithm 2). So over the rounds nothing is lost but the last error.
Statistics of batch norm, which are few and must not become negative, are sent as they are.
"""

from typing import Literal

import numpy as np

from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.models.names import is_buffer

Kind = Literal["float32", "float16", "bfloat16"]

_ERROR = "upload-error:"  # prefix of what was left out among a lab's private tensors
_WIRE = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}
"""Types that travel: NumPy has no bfloat16, so that is the upper half of a float32's bits."""


def encode(kind: Kind, start: Arrays, update: Arrays, private: Arrays) -> tuple[Arrays, Arrays]:
    """Turn a lab's new weights into what it sends.

    Parameters
    ----------
    kind
        Type in which weights travel.
    start
        Weights the round began with, float32.
    update
        Those it ended with, of the same names and shapes.
    private
        What the lab kept from its last round; what was left out of its last upload is in it, if
        anything was.

    Returns
    -------
    tuple
        What is sent, and what is left out, which is kept with the lab's private state. Under
        ``float32`` the update itself, and nothing.

    Raises
    ------
    RunError
        If a weight has moved too far for the type (float16 ends at 65 504), or to no number.
    """
    if kind == "float32":
        return update, {}
    meant = {
        name: array if is_buffer(name) else array + private.get(_ERROR + name, np.float32(0))
        for name, array in update.items()
    }
    with np.errstate(over="ignore", invalid="ignore"):  # it is seen below
        sent = {
            name: array if is_buffer(name) else _narrow(kind, array - start[name])
            for name, array in meant.items()
        }
    arrived = decode(kind, start, sent)
    for name, array in arrived.items():
        if not np.isfinite(array).all():
            raise RunError.without_data(
                f"{name} has moved too far to be sent as {kind}, or to no number; upload = float32 "
                "sends any"
            )
    left = {_ERROR + n: a - arrived[n] for n, a in meant.items() if not is_buffer(n)}
    return sent, left


def decode(kind: Kind, start: Arrays, sent: Arrays) -> Arrays:
    """Give the weights that a lab's upload stands for, float32; ``start`` as it was sent there."""
    if kind == "float32":
        return sent
    with np.errstate(over="ignore", invalid="ignore"):  # who reads it looks for what is not finite
        return {
            name: array if is_buffer(name) else start[name] + _widen(kind, array)
            for name, array in sent.items()
        }


def looks_like(kind: Kind, start: Arrays) -> Arrays:
    """Give arrays of the names, shapes and types that an upload has; their values mean nothing."""
    if kind == "float32":
        return start
    nothing = np.zeros((), dtype=_WIRE[kind])
    return {
        name: array if is_buffer(name) else np.broadcast_to(nothing, array.shape)
        for name, array in start.items()
    }


def without_error(private: Arrays) -> Arrays:
    """Give what training keeps of a lab's private state: all but what an upload left out."""
    return {name: array for name, array in private.items() if not name.startswith(_ERROR)}


def _narrow(kind: Kind, x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest, of two equally near the even one; infinity where it is over."""
    if kind == "float16":
        return x.astype(np.float16)
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x0040  # what is no number must not round to infinity or to zero
    return np.where(np.isnan(x), quiet, rounded).astype(np.uint16)


def _widen(kind: Kind, x: np.ndarray) -> np.ndarray:
    if kind == "float16":
        return x.astype(np.float32)
    return (x.astype(np.uint32) << 16).view(np.float32)
