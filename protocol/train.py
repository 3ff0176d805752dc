"""Train: each lab's start weights go out, its update and metrics come back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from fedsc.federated.averaging import Arrays
from protocol.checks import Cells, Finite, read_arrays, read_record
from protocol.records import key, labs_in, pack_arrays, unpack_arrays

if TYPE_CHECKING:
    from fedsc.training import Update


class _TrainMetrics(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Cells
    loss: Finite
    embedding_std: Annotated[Finite, Field(alias="embedding-std")]
    seconds: Finite


def pack_start(lab: str, round_: int, start: Arrays, preprocessing: RecordDict) -> RecordDict:
    """Put a lab's start weights of a round into a message, with all it needs to prepare its cells.

    A lab that restarts or joins late needs no earlier message.
    """
    return RecordDict(
        {
            key("start", lab): pack_arrays(start),
            "run": ConfigRecord({"round": round_}),
            **preprocessing,
        }
    )


def unpack_starts(content: RecordDict) -> tuple[int, dict[str, Arrays]]:
    """Take the number of the round and the start weights of each lab, by lab, out of a message."""
    starts = {lab: unpack_arrays(content[key("start", lab)]) for lab in labs_in(content, "start")}
    return int(content["run"]["round"]), starts


def pack_update(lab: str, update: "Update", seconds: float) -> RecordDict:
    """Put what a lab shares after a round, and how it went, into a reply."""
    metrics = {
        "cells": update.n_cells,
        "loss": update.loss,
        "embedding-std": update.embedding_std,
        "seconds": seconds,
    }
    return RecordDict(
        {
            key("update", lab): pack_arrays(update.shared),
            key("metrics", lab): MetricRecord(metrics),
        }
    )


def read_update(
    content: RecordDict, lab: str, expected: Mapping[str, np.ndarray]
) -> tuple[Arrays, dict[str, Any]]:
    """Take a lab's update and its metrics out of a reply.

    Parameters
    ----------
    content
        Of the reply.
    lab
        Name of the lab.
    expected
        The global weights: the same names, shapes and types are wanted.

    Raises
    ------
    BadReply
        If tensors are missing, unknown, of another shape or type, or not finite, or metrics are.
    """
    update = read_arrays(content.get(key("update", lab)), expected)
    record = content.get(key("metrics", lab))
    metrics = read_record(_TrainMetrics, record, MetricRecord, "the metrics")
    return update, metrics.model_dump()
