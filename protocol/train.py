"""Train: each lab's start weights go out, its update and metrics come back."""

from typing import TYPE_CHECKING, Annotated, Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from fedsc.federated.averaging import Arrays
from fedsc.federated.limits import bad_weights, distance
from fedsc.federated.upload import Kind, decode, looks_like
from fedsc.tensors import not_finite
from protocol.checks import BadReply, Cells, Finite, read_arrays, read_record
from protocol.records import key, labs_in, pack_weights, unpack_arrays, value_in

if TYPE_CHECKING:
    from fedsc.training import Update


_LARGEST = 1e6
"""No loss, spread or time (in seconds) is above it; a mean over labs and a figure can hold it."""


class _TrainMetrics(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Cells
    loss: Annotated[Finite, Field(ge=-_LARGEST, le=_LARGEST)]
    embedding_std: Annotated[Finite, Field(alias="embedding-std", ge=0, le=_LARGEST)]
    seconds: Annotated[Finite, Field(ge=0, le=_LARGEST)]


def pack_start(lab: str, round_: int, start: Arrays, preprocessing: RecordDict) -> RecordDict:
    """Put a lab's start weights of a round into a message, with all it needs to prepare its cells.

    A lab that restarts or joins late needs no earlier message.
    """
    return RecordDict(
        {
            key("start", lab): pack_weights(start),
            "run": ConfigRecord({"round": round_}),
            **preprocessing,
        }
    )


def unpack_starts(content: RecordDict) -> tuple[int, dict[str, Arrays]]:
    """Take the number of the round and the start weights of each lab, by lab, out of a message."""
    starts = {lab: unpack_arrays(content[key("start", lab)]) for lab in labs_in(content, "start")}
    return value_in(content, "run", "round", int), starts


def pack_update(lab: str, sent: Arrays, update: "Update", seconds: float) -> RecordDict:
    """Put what a lab sends after a round, and how it went, into a reply.

    ``sent`` is of :func:`fedsc.federated.upload.encode`.
    """
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "cells": update.n_cells,
        "loss": update.loss,
        "embedding-std": update.embedding_std,
        "seconds": seconds,
    }
    return RecordDict(
        {
            key("update", lab): pack_weights(sent),
            key("metrics", lab): MetricRecord(metrics),
        }
    )


def read_update(
    content: RecordDict, lab: str, start: Arrays, n_cells: int, upload: Kind = "float32"
) -> tuple[Arrays, dict[str, Any], float]:
    """Take a lab's update and its metrics out of a reply, and how far the update is from the start.

    Parameters
    ----------
    content
        Of the reply.
    lab
        Name of the lab.
    start
        The weights the lab was sent: the same names, shapes and types are wanted.
    n_cells
        Cells of the lab, as it described itself.
    upload
        Type in which weights travel.

    Raises
    ------
    BadReply
        If tensors are missing, unknown, of another shape or type, not finite or farther from the
        start than training moves them, or metrics are what they cannot be.
    """
    sent = read_arrays(content.get(key("update", lab)), looks_like(upload, start))
    update = decode(upload, start, sent)
    if upload != "float32" and (odd := not_finite(update)):  # whatever was sent was finite
        raise BadReply(f"{odd} holds NaN or infinity")
    moved = distance(start, update)
    if wrong := bad_weights(start, update, moved):
        raise BadReply(wrong)
    record = content.get(key("metrics", lab))
    metrics = read_record(_TrainMetrics, record, MetricRecord, "the metrics")
    if metrics.cells != n_cells:
        raise BadReply(f"trained on {metrics.cells} cells, described itself with {n_cells}")
    return update, metrics.model_dump(), moved
