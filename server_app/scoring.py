"""Scores of a finished run: pooled where the cells are at hand, in sums where they are not."""

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from client_app import messages
from fedsc.data.preprocess import Preprocessing, transform
from fedsc.evaluate import METRICS, kmeans, scores
from fedsc.federated.averaging import Arrays
from fedsc.federated.kmeans import learn_kmeans
from fedsc.federated.metrics import learn_scores
from fedsc.training import embed_cells
from partitioning.simulation import simulated_labs
from server_app.federation import Federation

Scores = dict[str, float | None]


def pooled_scores(
    federation: Federation, weights: Arrays, preprocessing: Preprocessing, *, unit: bool
) -> Scores | None:
    """Score as the papers do: k-means with the true k on all cells' embedding (FedSC §4.1).

    All cells means also those of types no lab trained on.

    Returns
    -------
    dict or None
        ``None`` where the pool cannot be embedded here: labs are real, or each has an encoder of
        its own (``local-norm``). Values are ``None`` where cells have no labels.
    """
    config = federation.config
    simulated = all(about.simulated for about in federation.labs.values())
    if not simulated or config.local_norm:
        return None
    simulation = simulated_labs(config)
    parts = list(simulation.labs.values())
    if simulation.left_out is not None:
        parts.append(simulation.left_out)
    labels = [part.labels for part in parts]
    if any(own is None for own in labels):
        return dict.fromkeys(METRICS)
    truth = np.concatenate(labels)
    types = set(truth) - {""}
    if not types:
        return dict.fromkeys(METRICS)
    embedding = np.concatenate(
        [
            embed_cells(weights, transform(part, preprocessing, scale=config.scale), unit=unit)
            for part in parts
        ]
    )
    clusters = kmeans(embedding, len(types), config.seed)
    found, labelled = scores(embedding, clusters, None), truth != ""
    of_labelled = scores(embedding[labelled], clusters[labelled], truth[labelled])
    return found | {name: of_labelled[name] for name in ("ari", "nmi")}


def federated_scores(
    federation: Federation, weights: Arrays, preprocessing: RecordDict, *, unit: bool
) -> Scores | None:
    """Cluster and score without a cell leaving its lab: federated k-means, sums of scores.

    k is the number of types the labs name between them.

    Returns
    -------
    dict or None
        ``None`` where no lab has labels. The silhouette is the simplified one, about centres.
    """
    types = sorted({name for about in federation.labs.values() for name in about.types})
    if not types:
        return None
    content = RecordDict({"weights": messages.pack_arrays(weights), **preprocessing})
    content["run"] = ConfigRecord({"unit": unit})
    federation.tell_all(messages.EMBED, content)
    ask = federation.ask("embedding", RecordDict())
    found = learn_kmeans(ask, len(types), federation.config.seed)
    return learn_scores(ask, found, np.array(types))
