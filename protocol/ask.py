"""Ask: a question about a lab's cells, answered in sums."""

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedsc.clusters import Clusters
from fedsc.data.preprocess import Preprocessing
from fedsc.federated.query import Question, Sums
from protocol.checks import BadReply, read_arrays
from protocol.records import (
    pack_arrays,
    pack_names,
    pack_preprocessing,
    unpack_arrays,
    unpack_names,
    value_in,
)

EXPRESSION = "expression"
CELLS = "cells"
EMBEDDING = "embedding"
CLUSTERS = "clusters"
INTEGRATION = "integration"
"""What a question is asked of."""


def pack_question(question: Question, subject: str) -> RecordDict:
    """Put a question and what it is asked of into a message."""
    return RecordDict(
        {
            "question": ConfigRecord({"name": question.name, "subject": subject}),
            "question-arrays": pack_arrays(question.arrays),
        }
    )


def unpack_question(content: RecordDict) -> tuple[Question, str]:
    """Take question and subject out of a message."""
    name, subject = (value_in(content, "question", part, str) for part in ("name", "subject"))
    return Question(name, unpack_arrays(content["question-arrays"])), subject


def about_expression(vocabulary: np.ndarray) -> RecordDict:
    """Give what a question about expression needs besides: the columns."""
    return RecordDict({"vocabulary": ConfigRecord({"names": pack_names(vocabulary)})})


def about_cells(preprocessing: Preprocessing) -> RecordDict:
    """Give what a question about prepared cells needs besides: how they are prepared."""
    return pack_preprocessing(preprocessing)


def about_embedding(integration: str, dimensions: int = 0) -> RecordDict:
    """Say which embedding is meant: after which integration, by its name, and how many columns.

    ``""`` = as it was before any, 0 columns = all.
    """
    told = ConfigRecord({"integration": integration, "dimensions": dimensions})
    return RecordDict({"embedding": told})


def about_clusters(clusters: Clusters, vocabulary: np.ndarray) -> RecordDict:
    """Give what a question about clusters needs besides: how a cell's is found, the columns."""
    return RecordDict(
        {
            **about_embedding(clusters.integration),
            **about_expression(vocabulary),
            "clusters": ConfigRecord({"packed": clusters.pack()}),
        }
    )


def vocabulary_of(content: RecordDict) -> np.ndarray:
    """Take the columns out of a message."""
    return unpack_names(value_in(content, "vocabulary", "names", bytes))


def integration_of(content: RecordDict) -> str:
    """Tell after which integration the embedding is that a message means, ``""`` = before any."""
    return value_in(content, "embedding", "integration", str)


def dimensions_of(content: RecordDict, all_: int) -> int:
    """Tell how many columns of it count."""
    return value_in(content, "embedding", "dimensions", int) or all_


def clusters_of(content: RecordDict) -> Clusters:
    """Take the clusters out of a message."""
    return Clusters.unpack(value_in(content, "clusters", "packed", bytes))


def read_sums(record: object, expected: Sums, n_cells: int) -> Sums:
    """Take the answer to a question out of a reply.

    Parameters
    ----------
    record
        Of the lab.
    expected
        What a lab without cells answers: names, shapes and types.
    n_cells
        Cells of the lab; no count is above it.

    Raises
    ------
    BadReply
        If it is not such an answer, or holds what no cells can add up to.
    """
    sums = read_arrays(record, expected)
    for name, array in sums.items():
        if (
            array.dtype.kind == "i"
            and array.size
            and not 0 <= array.min() <= array.max() <= n_cells
        ):
            raise BadReply(f"{name} counts {array.min()} to {array.max()} of {n_cells} cells")
    return sums
