"""The end of a run: one clustering of all labs' cells, none of which leaves its lab.

Labs embed their cells and keep the embedding. Federated k-means finds centres and scores from
sums; each real lab then writes its cells' clusters into a copy of its own file.
"""

import hashlib
import time
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import RecordDict
from flwr.common import log

import fedsc
from fedsc.config import Config
from fedsc.federated.answers import no_cells, no_embedding
from fedsc.federated.kmeans import Centres, Report, learn_kmeans
from fedsc.federated.metrics import learn_scores
from fedsc.model import Model
from fedsc.training import embed_cells
from protocol.embed import pack_model
from protocol.finish import pack_results
from protocol.records import EMBED, FINISH
from server_app.federation import Federation
from server_app.scoring import Scores

_SECONDS_OF_SILENCE = 15.0


@dataclass(frozen=True)
class Clustering:
    """Clusters of the pool.

    Attributes
    ----------
    found
        Centres with at least one cell, the largest cluster first.
    k_from
        Where the number of clusters is from, in words.
    scores
        The silhouette is the simplified one, about centres.
    """

    found: Centres
    k_from: str
    scores: Scores


def cluster(federation: Federation, config: Config, model: Model) -> Clustering | None:
    """Embed and cluster the cells of all labs, and score the clusters, in sums.

    Returns
    -------
    Clustering or None
        ``None`` when the number of clusters is neither given nor told by labels; real labs have
        embedded their cells nevertheless.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    ConfigError
        If more clusters are wanted than there are cells.
    """
    types = sorted({name for about in federation.labs.values() for name in about.types})
    k = config.clusters.k or len(types)
    real = any(not about.simulated for about in federation.labs.values())
    if not k and not real:
        return None
    log(INFO, "embedding the cells of %d labs", len(federation.labs))
    federation.tell_all(EMBED, pack_model(model))
    if not k:
        log(
            WARNING,
            "no clusters: no lab names cell types; give their number with clusters = K "
            "(resume = this run's folder is enough, nothing is trained again)",
        )
        return None
    dimensions = embed_cells(model.weights, no_cells(model.preprocessing)).shape[1]
    ask = federation.ask("embedding", RecordDict(), no_embedding(dimensions))
    found = learn_kmeans(ask, k, config.run.seed, _reporter())
    scores = learn_scores(ask, found, types)
    alive = found.sizes > 0
    found = Centres(found.centres[alive], found.sizes[alive], found.inertia, found.iterations)
    k_from = "given" if config.clusters.k else f"the {k} cell types the labs name"
    log(INFO, "%d clusters of %s cells (k: %s)", len(found.sizes), found.sizes.tolist(), k_from)
    return Clustering(found, k_from, scores)


def _reporter() -> Report:
    """Log the iterations of k-means now and then: over a network each takes as long as a round."""
    last = time.monotonic()

    def report(iteration: int, moved: float, tolerance: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_OF_SILENCE:
            last = time.monotonic()
            log(
                INFO,
                "k-means: iteration %d, centres moved by %.2g (done at %.2g)",
                iteration,
                moved,
                tolerance,
                extra={"iteration": iteration},
            )

    return report


def finish(
    federation: Federation,
    config: Config,
    model: Model,
    clustering: Clustering | None,
    warnings: list[str],
) -> None:
    """Let every real lab write its results into a copy of its own file.

    A lab that cannot is told of in the log; it can do so later with ``fedsc embed``.

    Parameters
    ----------
    federation
        The labs.
    model
        What the cells were embedded with.
    clustering
        Clusters of the pool, if there are any.
    warnings
        What has to be known to trust them.
    """
    labs = [lab for lab, about in federation.labs.items() if not about.simulated]
    if not labs:
        return
    about: dict[str, str | int] = {
        "run": federation.run["name"],
        "method": config.method.name,
        "rounds": config.training.rounds if model.unit else 0,
        "seed": config.run.seed,
        "labs": len(federation.labs),
        "cells": sum(told.cells for told in federation.labs.values()),
        "genes": len(model.preprocessing.genes),
        "version": fedsc.__version__,
        "model": _digest(model),
    }
    if warnings:
        about["warnings"] = "; ".join(warnings)
    if clustering is not None:
        about |= {
            "k": len(clustering.found.sizes),
            "k_from": clustering.k_from,
            "clusters": "federated k-means on the embedding of all labs, largest cluster first",
        }
    centres = None if clustering is None else clustering.found.centres
    answers = federation.tell(labs, FINISH, pack_results(centres, about))
    for lab in answers.records:
        log(INFO, "lab %s has its results in a copy of its own file", lab, extra={"lab": lab})
    for lab, reason in answers.failures.items():
        log(
            WARNING,
            "lab %s could not write its results: %s; it can do so with fedsc embed, from this "
            "run's folder",
            lab,
            reason,
            extra={"lab": lab, "reason": reason},
        )


def _digest(model: Model) -> str:
    """Name the model by its content, so that labs can see that they hold results of the same."""
    digest = hashlib.sha256()
    for name, content in sorted(model.files().items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:16]
