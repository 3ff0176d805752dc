"""Embed: the model goes out; the embedding stays in the lab, which tells how many cells it has."""

from typing import Annotated

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from fedsc.federated.averaging import Arrays
from fedsc.model import Model
from protocol.checks import BadReply, Cells, read_record
from protocol.records import key, pack_arrays, pack_preprocessing, unpack_arrays, value_in


class _Embedded(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Cells
    blank: Annotated[int, Field(ge=0)]


def pack_model(model: Model) -> RecordDict:
    """Put an encoder, and all a lab needs to prepare its cells for it, into a message."""
    return RecordDict(
        {
            "weights": pack_arrays(model.weights),
            "run": ConfigRecord({"unit": model.unit}),
            **pack_preprocessing(model.preprocessing),
        }
    )


def unpack_encoder(content: RecordDict) -> tuple[Arrays, bool]:
    """Take the encoder, and whether an embedding's rows have length 1, out of a message."""
    return unpack_arrays(content["weights"]), value_in(content, "run", "unit", bool)


def pack_embedded(lab: str, n_cells: int, n_blank: int) -> RecordDict:
    """Say that a lab has embedded its cells, and how many have none of the model's genes."""
    told = MetricRecord({"cells": n_cells, "blank": n_blank})
    return RecordDict({key("embedded", lab): told})


def read_embedded(content: RecordDict, lab: str, n_cells: int) -> int:
    """Hold what a lab says of its embedding against the cells it described itself with.

    Returns
    -------
    int
        Cells that have none of the model's genes.

    Raises
    ------
    BadReply
        If it says nothing, or is of another number of cells.
    """
    told = read_record(_Embedded, content.get(key("embedded", lab)), MetricRecord, "the embedding")
    if told.cells != n_cells:
        raise BadReply(f"embedded {told.cells} cells, described itself with {n_cells}")
    if told.blank > n_cells:
        raise BadReply(f"{told.blank} of {n_cells} cells have none of the model's genes")
    return told.blank
