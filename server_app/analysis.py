"""The end of a run: what the labs' cells are, asked in sums; no cell leaves its lab.

Labs embed their cells and keep the embedding. Where asked, Harmony brings labs of different
techniques together. Then clusters, markers, types and a map that all labs share; each real lab
writes them into a copy of its own file.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.common import log

import fedsc
from fedsc.clusters import Clusters
from fedsc.config import Config
from fedsc.federated import harmony_lab, mixing
from fedsc.federated.annotation import UNKNOWN, alike, learn_types
from fedsc.federated.answers import answer, no_clusters, no_embedding
from fedsc.federated.bounds import LARGEST
from fedsc.federated.correction import BatchedCells
from fedsc.federated.graph import GraphClusters, learn_agreement, learn_graph
from fedsc.federated.harmony import Harmony, learn_harmony, learn_start
from fedsc.federated.kmeans import Centres, Report, learn_kmeans
from fedsc.federated.map import learn_map
from fedsc.federated.markers import Markers, learn_markers
from fedsc.federated.metrics import learn_scores
from fedsc.federated.mixing import decide, learn_mixing
from fedsc.federated.query import Ask, Question, Sums
from fedsc.model import Model
from fedsc.options import AnalysisOptions
from protocol import ask as asking
from protocol.embed import pack_model
from protocol.finish import Results, pack_results
from protocol.records import EMBED, FINISH
from server_app.federation import Federation

_SECONDS_OF_SILENCE = 15.0
_MARKERS = 100  # genes of each cluster that a lab's file holds
_STEPS = (0.75, 1.25)  # times the first resolution: how stable its clusters are
_PCA_COLUMNS = 30  # of principal components that k-means looks at: see decision 0021

Scores = dict[str, Any]


@dataclass(frozen=True)
class Integration:
    """How labs were brought together.

    Attributes
    ----------
    harmony
        ``None`` where the embedding is as it was.
    about
        What was asked for, what was done and why, for ``scores.json``.
    """

    harmony: Harmony | None
    about: dict[str, Any]

    @property
    def steps(self) -> int:
        """How many steps of Harmony labs took; 0 where the embedding is as it was."""
        return len(self.harmony.questions) if self.harmony else 0


@dataclass(frozen=True)
class Found:
    """Clusters of the pool by both ways, and their scores.

    Attributes
    ----------
    graph
        At the resolutions asked for and beside the first of them.
    first
        Which of these is the first asked for.
    kmeans
        Centres with at least one cell, the largest cluster first; ``None`` where k is not known.
    scores
        ``graph`` and ``kmeans``, as ``scores.json`` has them.
    warnings
        What has to be known to trust them.
    """

    graph: GraphClusters
    first: int
    kmeans: Centres | None
    scores: dict[str, Scores | None]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """All that a run says of the pool's cells.

    Attributes
    ----------
    found
        Clusters and scores.
    integration
        How labs were brought together.
    clusters
        What places a cell.
    markers
        All genes of every cluster, ranked.
    """

    found: Found
    integration: Integration
    clusters: Clusters
    markers: Markers


def types_of(federation: Federation) -> list[str]:
    """List the cell types the labs name, sorted."""
    return sorted({name for about in federation.labs.values() for name in about.types})


def embed(federation: Federation, model: Model) -> int:
    """Let every lab embed its cells and keep the embedding; give its dimensions.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    log(INFO, "embedding the cells of %d labs", len(federation.labs))
    federation.tell_all(EMBED, pack_model(model))
    return model.dimensions


def analyse(federation: Federation, config: Config, model: Model) -> Analysis:
    """Embed, integrate, cluster and describe the cells of all labs, in sums.

    Parameters
    ----------
    federation
        The labs.
    config
        Options of the run.
    model
        What cells are embedded with.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    ConfigError
        If more clusters are wanted than there are cells, or labs that differ by cell type are to
        be integrated.
    """
    dimensions = embed(federation, model)
    integration = integrate(federation, config, dimensions)
    found = find_clusters(federation, config, model, integration.steps)
    types = types_of(federation)
    clusters = _clusters(found, config.analysis, config.run.seed)
    vocabulary = np.array(model.preprocessing.vocabulary, dtype=object)
    ask = federation.ask(
        asking.CLUSTERS,
        asking.about_clusters(clusters, vocabulary, integration.steps),
        _answers(no_clusters(vocabulary, model.preprocessing.kind)),
    )
    log(INFO, "markers and types of %d clusters", clusters.k)
    markers = learn_markers(ask, clusters.k, model.preprocessing.target_sum)
    warnings = list(found.warnings)
    if types:
        named = learn_types(ask, types, clusters.k, config.analysis.type_threshold)
        names = tuple(map(str, named.names))
        clusters = replace(clusters, types=names, shares=named.shares)
        if set(names) == {UNKNOWN}:
            warnings.append("no cluster has a type that enough of its annotated cells share")
        warnings += [
            f"cell types that differ in spelling alone are counted apart: {', '.join(spellings)}"
            for spellings in alike(types)
        ]
    return Analysis(replace(found, warnings=tuple(warnings)), integration, clusters, markers)


def integrate(federation: Federation, config: Config, dimensions: int) -> Integration:
    """Bring labs of different techniques together, where it is asked for or seems to help.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    wanted = config.analysis.integrate
    if wanted == "none":
        return Integration(None, {"asked": wanted, "done": False})
    ask = federation.ask(
        asking.INTEGRATION,
        asking.about_embedding(steps=0),
        _IntegrationAnswers(dimensions),
    )
    n_cells = sum(about.cells for about in federation.labs.values())
    start = learn_start(ask, n_cells, config.run.seed)
    before = learn_mixing(ask, start)
    advice = decide(before)
    if wanted == "auto" and not advice.integrate:
        log(INFO, "integrate = auto: not done; %s", advice.reason)
        return Integration(None, {"asked": wanted, "done": False, "reason": advice.reason})
    harmony = learn_harmony(ask, n_cells, start, _harmony_reporter)
    moved = federation.ask(
        asking.INTEGRATION,
        asking.about_embedding(len(harmony.questions)),
        _IntegrationAnswers(dimensions),
    )
    after = learn_mixing(moved, harmony.centres)
    advice = decide(before, after)
    done = wanted == "harmony" or advice.integrate
    log(
        INFO if advice.integrate else WARNING,
        "integrate = %s: %s; %s",
        wanted,
        "done" if done else "not done",
        advice.reason,
    )
    about = {
        "asked": wanted,
        "done": done,
        "reason": advice.reason,
        "mixing_before": before.index,
        "mixing_after": after.index,
        "bend": after.bend,
        "rounds": len(harmony.moved),
        "steps": len(harmony.questions),
        "converged": harmony.converged,
    }
    return Integration(harmony if done else None, about)


def find_clusters(federation: Federation, config: Config, model: Model, steps: int) -> Found:
    """Cluster the embeddings of all labs by a graph and, where k is known, by k-means; score both.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    ConfigError
        If more clusters are wanted than there are cells.
    """
    options, types = config.analysis, types_of(federation)
    ask = _ask_embedding(federation, model, model.dimensions, steps, "graph")
    first = options.resolutions[0]
    beside = {first * step for step in _STEPS}
    resolutions = tuple(sorted({*options.resolutions, *beside}))
    graph = learn_graph(ask, resolutions, config.run.seed)
    at = resolutions.index(first)
    agreement = learn_agreement(ask, graph, types)
    scores: dict[str, Scores | None] = {
        "graph": _graph_scores(graph, agreement, at, options.resolutions),
        "kmeans": None,
    }
    alive = int((graph.sizes[at] > 0).sum())
    log(INFO, "graph: %d clusters of %s cells", alive, graph.sizes[at][:alive].tolist())
    warnings: list[str] = []
    if alive == 1:
        warnings.append(
            f"the graph has a single cluster at resolution {first:g}: a higher one makes more"
        )
    k = options.k or len(types)
    centres = None
    if k:
        # The last components are mostly noise, and k-means, unlike the graph, minds it.
        columns = model.dimensions if model.unit else min(_PCA_COLUMNS, model.dimensions)
        narrow = _ask_embedding(federation, model, columns, steps, "kmeans")
        centres = _without_empty(learn_kmeans(narrow, k, config.run.seed, _reporter()))
        k_from = "given" if options.k else f"the {k} cell types the labs name"
        log(INFO, "k-means: %d clusters (k: %s)", len(centres.sizes), k_from)
        scores["kmeans"] = {
            **learn_scores(narrow, centres, types),
            "clusters": len(centres.sizes),
            "k_from": k_from,
            "sizes": centres.sizes.tolist(),
        }
        if centres.singletons:
            warnings.append(
                f"{centres.singletons} of {len(centres.sizes)} k-means clusters hold a single "
                "cell: outliers took centres; use cluster-by = graph"
            )
    elif options.cluster_by == "kmeans":
        warnings.append(
            "cluster-by = kmeans, but k is neither given (clusters = K) nor told by labels: the "
            "cells' clusters are the graph's"
        )
    return Found(graph, at, centres, scores, tuple(warnings))


def _without_empty(found: Centres) -> Centres:
    some = found.sizes > 0
    return replace(found, centres=found.centres[some], sizes=found.sizes[some])


def finish(
    federation: Federation, config: Config, model: Model, analysis: Analysis, warnings: list[str]
) -> None:
    """Let every real lab write its results into a copy of its own file.

    A lab that is busy still is waited for, and one that was left out of the clusters embeds its
    cells first. A lab that cannot is told of in the log; it can do so later with ``fedsc embed``.
    """
    labs = [lab for lab, about in federation.labs.items() if not about.simulated]
    if not labs:
        return
    options = config.analysis
    by_kmeans = analysis.clusters.centres is not None
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
        "k": analysis.clusters.k,
        "clusters": "federated k-means" if by_kmeans else "graph of the pool",
        "integrated": "harmony" if analysis.integration.harmony else "none",
    }
    if not by_kmeans:
        about["resolution"] = options.resolution.split(",")[0]
    if warnings:
        about["warnings"] = "; ".join(warnings)
    results = Results(
        analysis.clusters,
        analysis.integration.steps,
        analysis.markers.first(_MARKERS),
        np.array(model.preprocessing.vocabulary, dtype=object),
        about,
    )
    served = _tell_results(federation, labs, results)
    for late in federation.stragglers(served):
        if not results.steps:  # or it would lose its correction
            federation.tell(late, EMBED, pack_model(model))
        _tell_results(federation, late, results)


def _tell_results(federation: Federation, labs: list[str], results: Results) -> list[str]:
    """Tell labs the results; list those that have them in a copy of their own file."""
    answers = federation.tell(labs, FINISH, pack_results(results))
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
    return list(answers.records)


class _IntegrationAnswers:
    """What a lab without cells answers about integration; it remembers the steps, as labs do."""

    def __init__(self, dimensions: int) -> None:
        nothing = np.empty((0, dimensions), dtype=np.float32)
        self._cells = BatchedCells(nothing, np.empty(0, dtype=np.int64))
        self._state: harmony_lab.HarmonyState | None = None

    def __call__(self, question: Question) -> Sums:
        if question.name == mixing.MIXING:
            return mixing.sum_mixing(self._cells, None, question)
        sums, self._state = harmony_lab.answer(self._cells, self._state, question)
        return sums


def _answers(nothing: Any) -> Callable[[Question], Sums]:
    return lambda question: answer(nothing, question)


def _ask_embedding(
    federation: Federation, model: Model, dimensions: int, steps: int, purpose: str
) -> Ask:
    unit = model.unit and not steps  # Harmony moves cells off the sphere
    return federation.ask(
        asking.EMBEDDING,
        asking.about_embedding(steps, dimensions),
        _answers(no_embedding(dimensions)),
        purpose,
        largest=1.0 if unit else LARGEST,
    )


def _graph_scores(
    graph: GraphClusters,
    agreement: list[dict[str, float | None]],
    first: int,
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

    stable = graph.stability[max(first - 1, 0) : first + 1]
    others = [i for i, r in enumerate(graph.resolutions) if r in asked and i != first]
    return {
        **at(first),
        "stability": float(stable.min()) if len(stable) else None,
        "resolutions": [at(i) for i in others],
    }


def _clusters(found: Found, options: AnalysisOptions, seed: int) -> Clusters:
    """Choose the clusters the cells get, and draw the map."""
    graph, by_kmeans = found.graph, options.cluster_by == "kmeans" and found.kmeans is not None
    communities, sizes = graph.communities[found.first], graph.sizes[found.first]
    k = int(communities.max()) + 1
    sizes, centres = sizes[:k], None
    if by_kmeans and found.kmeans is not None:
        sizes, centres = found.kmeans.sizes, found.kmeans.centres
    places = None
    if options.draw_map:
        log(INFO, "map of %d micro-centres (draw-map = false saves the time)", len(communities))
        places = learn_map(graph.micro, seed)
    return Clusters(graph.micro, communities, centres, sizes, places, (), np.zeros(len(sizes)))


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


def _harmony_reporter(rounds: int, moved: float, tolerance: float) -> None:
    log(
        INFO,
        "harmony: round %d, cells moved by %.2g (done at %.2g)",
        rounds,
        moved,
        tolerance,
        extra={"iteration": rounds},
    )


def _digest(model: Model) -> str:
    """Name the model by its content, so that labs can see that they hold results of the same."""
    digest = hashlib.sha256()
    for name, content in sorted(model.files().items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:16]
