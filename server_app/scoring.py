"""Scores of a finished run: pooled where the cells are at hand, in sums where they are not."""

from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from client_app import messages
from fedsc.data.preprocess import Preprocessing, transform
from fedsc.evaluate import kmeans, scores
from fedsc.federated.averaging import Arrays
from fedsc.training import embed_cells
from partitioning.simulation import simulated_labs
from server_app.federation import Federation


def pooled_scores(
    federation: Federation, weights: Arrays, preprocessing: Preprocessing, *, unit: bool
) -> dict[str, Any] | None:
    """Score as the papers do: k-means with the true k on all cells' embedding (FedSC §4.1).

    All cells means also those of types no lab trained on. Possible in a simulation alone, and
    only when one map embeds every cell; ``None`` otherwise.
    """
    config = federation.config
    simulated = all(about.simulated for about in federation.labs.values())
    if not simulated or config.local_norm:
        return None
    simulation = simulated_labs(config)
    parts = list(simulation.labs.values())
    if simulation.left_out is not None:
        parts.append(simulation.left_out)
    embedding = np.concatenate(
        [
            embed_cells(weights, transform(part, preprocessing, scale=config.scale), unit=unit)
            for part in parts
        ]
    )
    if any(part.labels is None for part in parts):
        return dict.fromkeys(("ari", "nmi", "silhouette", "calinski_harabasz"))
    labels = np.concatenate([part.labels for part in parts])
    return scores(embedding, kmeans(embedding, len(np.unique(labels)), config.seed), labels)


def federated_scores(federation, weights, records, *, unit):
    return None
