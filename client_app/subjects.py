"""What a question is about: expression, prepared cells, embedding, clusters or integration."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict

from client_app.labs import Lab
from client_app.state import load_embedding, load_integration, save_integration
from fedsc.errors import RunError
from fedsc.federated.query import Question, Sums, parts
from fedsc.options import Scale
from protocol import ask
from protocol.records import unpack_preprocessing

if TYPE_CHECKING:
    from fedsc.federated.answers import Data


def answer_of(
    lab: Lab, question: Question, subject: str, content: RecordDict, folder: Path, scale: Scale
) -> Sums:
    """Answer a question about one lab in sums.

    Parameters
    ----------
    lab
        Whose cells are asked about.
    question
        Named for the statistic.
    subject
        What it is asked of: a constant of :mod:`protocol.ask`.
    content
        Of the message.
    folder
        Of the lab's private state of the run.
    scale
        How cells are standardised.

    Raises
    ------
    RunError
        If the lab has not embedded its cells, or its file has changed since.
    """
    from fedsc.federated.answers import answer

    if subject == ask.INTEGRATION:
        return _integration(question, ask.integration_of(content), folder)
    return answer(_data(lab, question, subject, content, folder, scale), question)


def embedding_of(folder: Path, integration: str) -> np.ndarray:
    """Give the embedding of a lab's cells, float (cells, d).

    Parameters
    ----------
    folder
        Of the lab's private state of the run.
    integration
        Name of the one after which it is meant; ``""`` = as it was before any.

    Raises
    ------
    RunError
        If the lab has not embedded its cells, or has not taken all steps of this integration (it
        was away meanwhile), but perhaps those of another.
    """
    if not integration:
        return load_embedding(folder).x
    state = load_integration(folder)
    if state is None or state.asked[-1] != integration:
        raise RunError.without_data(
            "the lab was not there for all steps of the integration, which the results need: "
            "its cells are moved otherwise, or not at all"
        )
    return state.corrected


def _data(
    lab: Lab, question: Question, subject: str, content: RecordDict, folder: Path, scale: Scale
) -> "Data":
    from fedsc.federated import graph, metrics
    from fedsc.federated.clustered import Clustered

    if subject == ask.EXPRESSION:
        return lab.aligned(ask.vocabulary_of(content))
    if subject == ask.CELLS:
        return lab.cells(unpack_preprocessing(content), scale)
    x = embedding_of(folder, ask.integration_of(content))
    x = x[:, : ask.dimensions_of(content, x.shape[1])]
    labels = {metrics.CONTINGENCY, graph.CONTINGENCY}.intersection(q.name for q in parts(question))
    if subject == ask.EMBEDDING and not labels:
        return metrics.Embedded(x, None)
    # What follows goes cell by cell with the lab's file: they have to be the same cells.
    load_embedding(folder).of(lab.expression)
    if subject == ask.EMBEDDING:
        return metrics.Embedded(x, lab.expression.labels)
    cells = lab.aligned(ask.vocabulary_of(content))
    return Clustered(cells, ask.clusters_of(content).assign(x), lab.expression.labels)


def _integration(question: Question, integration: str, folder: Path) -> Sums:
    """Take a step of Harmony, whose state the lab keeps before it answers; or say how labs mix."""
    from fedsc.federated import harmony_lab, mixing
    from fedsc.federated.correction import BatchedCells

    kept = load_embedding(folder)
    cells = BatchedCells(kept.x, kept.batches)
    if question.name == mixing.MIXING:
        after = embedding_of(folder, integration) if integration else None
        return mixing.sum_mixing(cells, after, question)
    before = load_integration(folder)
    sums, after_step = harmony_lab.answer(cells, before, question)
    if after_step is not None and after_step is not before:
        save_integration(folder, after_step, kept.names)
    return sums
