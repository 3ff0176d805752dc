"""Clusters of the pool by both ways, graph and k-means, and how good they are, from sums."""

import time
from dataclasses import dataclass
from logging import INFO
from typing import Any

from flwr.common import log

from fedsc.config import Config
from fedsc.errors import ConfigError
from fedsc.federated.answers import no_embedding
from fedsc.federated.bounds import LARGEST
from fedsc.federated.graph import GraphClusters, agreement, learn_graph
from fedsc.federated.kmeans import Centres, Report, learn_kmeans
from fedsc.federated.metrics import learn_scores
from fedsc.federated.query import Ask
from fedsc.model import Model
from protocol import ask as asking
from server_app.federation import Federation

_SECONDS_OF_SILENCE = 15.0
FIRST = 1
"""Which of a graph's resolutions is the first asked for: it stands between those beside it."""

_STEPS = (0.75, 1.25)  # times the first resolution: how stable its clusters are
# Six of 129 runs on labelled sets are below; their ARI with the types: 0.04 to 0.48.
_UNSTABLE = 0.6
_PCA_COLUMNS = 30  # of principal components that k-means looks at: see decision 0008

Scores = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Clusters of the pool by both ways, and their scores.

    Attributes
    ----------
    graph
        At the resolutions asked for and beside the first of them.
    kmeans
        Centres with at least one cell, the largest cluster first; ``None`` where k is not known,
        or above the number of cells.
    scores
        ``graph`` and ``kmeans``, as ``scores.json`` has them.
    warnings
        What has to be known to trust them.
    """

    graph: GraphClusters
    kmeans: Centres | None
    scores: dict[str, Scores | None]
    warnings: tuple[str, ...]


def refuse_k(federation: Federation, config: Config) -> None:
    """Refuse more clusters than there are cells, before anything is trained.

    Raises
    ------
    ConfigError
        If ``clusters`` is above the number of cells.
    """
    cells = sum(about.cells for about in federation.labs.values())
    if config.analysis.k > cells:
        raise ConfigError(
            f"option clusters = {config.analysis.k}: the labs have {cells} cells; ask for fewer "
            "clusters, or none (0)"
        )


def find_clusters(federation: Federation, config: Config, model: Model, integration: str) -> Found:
    """Cluster the embeddings of all labs by a graph and, where k is known, by k-means; score both.

    ``integration`` names the one after which embeddings are meant, ``""`` = before any.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    options = config.analysis
    graph, of_graph, warnings = _by_graph(federation, config, model, integration)
    pool = int(graph.sizes[FIRST].sum())
    # A name is a claim, a cell is counted: types that no cell has would be clusters all the same.
    k = options.k or int(graph.tables[FIRST].any(axis=1).sum())
    centres, of_kmeans = None, None
    if 0 < k <= pool:
        centres, of_kmeans = _by_kmeans(federation, config, model, integration, k)
        if centres.singletons:
            advice = "k-means' scores say little"
            if options.cluster_by == "kmeans":
                advice = "use cluster-by = graph"
            warnings.append(
                f"{centres.singletons} of {len(centres.sizes)} k-means clusters hold a single "
                f"cell: outliers took centres, so {advice}"
            )
    elif k:
        warnings.append(
            f"no k-means: clusters = {k}, and {pool} cells are left: the clusters are the graph's"
        )
    elif options.cluster_by == "kmeans":
        warnings.append(
            "cluster-by = kmeans, but k is neither given (clusters = K) nor told by labels: the "
            "cells' clusters are the graph's"
        )
    return Found(graph, centres, {"graph": of_graph, "kmeans": of_kmeans}, tuple(warnings))


def _by_graph(
    federation: Federation, config: Config, model: Model, integration: str
) -> tuple[GraphClusters, Scores, list[str]]:
    """Find the graph's clusters at all resolutions; score the first, and say what to mind."""
    options = config.analysis
    first = options.resolutions[0]
    beside = [first * step for step in _STEPS]
    others = sorted(set(options.resolutions) - {first, *beside})
    resolutions = (beside[0], first, beside[1], *others)
    ask = _ask_embedding(federation, model, model.dimensions, integration, "graph")
    graph = learn_graph(ask, resolutions, config.run.seed, vocabulary=federation.types)
    scores = _graph_scores(graph, agreement(graph), options.resolutions)
    alive = int((graph.sizes[FIRST] > 0).sum())
    log(INFO, "graph: %d clusters of %s cells", alive, graph.sizes[FIRST][:alive].tolist())
    warnings = []
    if alive == 1:
        warnings.append(
            f"the graph has a single cluster at resolution {first:g}: a higher one makes more"
        )
    elif scores["stability"] < _UNSTABLE:
        warnings.append(
            f"the graph's clusters depend on the resolution ({first:g}): those at a somewhat "
            f"higher or lower one agree with them to an ARI of only {scores['stability']:.2f}. "
            f"They may be arbitrary: look at their markers{', or try fedpca' if model.unit else ''}"
        )
    return graph, scores, warnings


def _by_kmeans(
    federation: Federation, config: Config, model: Model, integration: str, k: int
) -> tuple[Centres, Scores]:
    """Find the k-means clusters that hold cells, and score them."""
    # The last components are mostly noise, and k-means, unlike the graph, minds it.
    columns = model.dimensions if model.unit else min(_PCA_COLUMNS, model.dimensions)
    ask = _ask_embedding(federation, model, columns, integration, "kmeans")
    centres = learn_kmeans(ask, k, config.run.seed, _reporter())
    k_from = "given" if config.analysis.k else f"the {k} cell types the labs name"
    log(INFO, "k-means: %d clusters (k: %s)", len(centres.sizes), k_from)
    return centres, {
        **learn_scores(ask, centres, federation.types),
        "clusters": len(centres.sizes),
        "k_from": k_from,
        "sizes": centres.sizes.tolist(),
    }


_UNIT = 1.0 + 1e-6  # a unit vector's largest coordinate, as float32 rounds it


def _ask_embedding(
    federation: Federation, model: Model, dimensions: int, integration: str, purpose: str
) -> Ask:
    unit = model.unit and not integration  # Harmony moves cells off the sphere
    return federation.ask(
        asking.EMBEDDING,
        asking.about_embedding(integration, dimensions),
        no_embedding(dimensions),
        purpose,
        largest=_UNIT if unit else LARGEST,
    )


def _graph_scores(
    graph: GraphClusters,
    agreement: list[dict[str, float | None]],
    asked: tuple[float, ...],
) -> Scores:
    """Give the scores of the first resolution, and beside them those of all that were asked."""

    def at(i: int) -> Scores:
        alive = graph.sizes[i] > 0
        return {
            "resolution": graph.resolutions[i],
            **agreement[i],
            "clusters": int(alive.sum()),
            "sizes": graph.sizes[i][alive].tolist(),
            "labs": graph.labs[i][alive].tolist(),
        }

    others = [i for i, r in enumerate(graph.resolutions) if r in asked and i != FIRST]
    return {
        **at(FIRST),
        "stability": float(graph.stability[FIRST - 1 : FIRST + 1].min()),
        "resolutions": [at(i) for i in sorted(others, key=graph.resolutions.__getitem__)],
    }


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
