"""Embed: the model goes out; the embedding stays in the lab, which tells how many cells it has."""

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsc.federated.averaging import Arrays
from fedsc.model import Model
from protocol.records import key, pack_arrays, pack_preprocessing, unpack_arrays


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
    return unpack_arrays(content["weights"]), bool(content["run"]["unit"])


def pack_embedded(lab: str, n_cells: int) -> RecordDict:
    """Say that a lab has embedded its cells."""
    return RecordDict({key("embedded", lab): MetricRecord({"cells": n_cells})})
