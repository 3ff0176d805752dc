"""Scores of a finished run as the papers make them, where the cells are at hand."""

import numpy as np

from fedsc.config import Config
from fedsc.data.expression import LabCells
from fedsc.data.preprocess import transform
from fedsc.evaluate import METRICS, kmeans, scores
from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony import Harmony
from fedsc.federated.harmony_lab import fit_later
from fedsc.model import Model
from fedsc.training import embed_cells
from server_app.federation import Federation
from server_app.split import simulation_of

Scores = dict[str, float | None]


def pooled_scores(
    federation: Federation, config: Config, model: Model, harmony: Harmony | None = None
) -> Scores | None:
    """Score as the papers do: k-means with the true k on all cells' embedding (FedSC §4.1).

    All cells means also those of types no lab trained on.

    Parameters
    ----------
    federation, config, model
        Of the run.
    harmony
        What moves the cells before they are clustered, each lab's by its own batches; ``None`` =
        nothing does.

    Returns
    -------
    dict or None
        ``None`` where the pool cannot be embedded here: labs are real, or each has an encoder of
        its own (``local-norm``). Values are ``None`` where cells have no labels.
    """
    simulation = simulation_of(federation, config)
    if not simulation.labs or config.method.local_norm:
        return None
    parts = dict(simulation.labs)
    if simulation.left_out is not None:
        parts[""] = simulation.left_out
    if federation.cell_filter is not None:
        parts = federation.cell_filter.of_all(parts)
    labels = [part.labels for part in parts.values() if part.labels is not None]
    if len(labels) < len(parts):
        return dict.fromkeys(METRICS)
    truth = np.concatenate(labels)
    types = set(truth) - {""}
    if not types:
        return dict.fromkeys(METRICS)
    embedding = np.concatenate(
        [
            _moved(
                embed_cells(
                    model.weights,
                    transform(part, model.preprocessing, scale=config.data.scale),
                    unit=model.unit,
                ),
                part,
                # Who was not among the labs that were integrated is one batch, as a new lab is.
                simulation.batch_keys.get(lab, config.analysis.batch_key)
                if lab in federation.labs
                else "",
                harmony,
            )
            for lab, part in parts.items()
        ]
    )
    clusters = kmeans(embedding, len(types), config.run.seed)
    return scores(embedding, clusters, truth)


def _moved(x: np.ndarray, part: LabCells, batch_key: str, harmony: Harmony | None) -> np.ndarray:
    """Give a lab's cells where its own correction takes them, to the bit."""
    if harmony is None:
        return x
    return fit_later(BatchedCells(x, part.batches(batch_key)[0]), harmony.questions).corrected
