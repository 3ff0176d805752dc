"""The end of a run: what the labs' cells are, asked in sums; no cell leaves its lab.

Labs embed their cells and keep the embedding. Then integration, clusters, markers, types and a
map that all labs share.
"""

from dataclasses import dataclass, replace
from logging import INFO

import numpy as np
from flwr.common import log

from fedsc.clusters import Clusters
from fedsc.config import Config
from fedsc.data.coverage import blank_cells
from fedsc.federated.annotation import UNKNOWN, alike, learn_types, types_question
from fedsc.federated.answers import no_clusters
from fedsc.federated.map import learn_map
from fedsc.federated.markers import Markers, learn_markers, markers_question
from fedsc.federated.query import together
from fedsc.model import Model
from protocol import ask as asking
from protocol.checks import BadReply
from protocol.embed import pack_model, read_embedded
from protocol.records import EMBED
from protocol.replies import Answers
from server_app.clustering import FIRST, Found, find_clusters
from server_app.federation import Federation, LabsLost
from server_app.integration import Integration, integrate


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


def embed(federation: Federation, model: Model) -> dict[str, int]:
    """Let every lab embed its cells and keep the embedding.

    Returns
    -------
    dict
        By lab how many cells have none of the model's genes.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    log(INFO, "embedding the cells of %d labs", len(federation.labs))
    answers = federation.tell_all(EMBED, pack_model(model))
    blank, failures = read_all_embedded(federation, answers)
    if failures:
        raise LabsLost(failures)
    return blank


def read_all_embedded(
    federation: Federation, answers: Answers
) -> tuple[dict[str, int], dict[str, str]]:
    """Give by lab how many cells have none of the model's genes, or why none are embedded."""
    blank, failures = dict[str, int](), dict(answers.failures)
    for lab, reply in answers.records.items():
        try:
            blank[lab] = read_embedded(reply, lab, federation.labs[lab].cells)
        except BadReply as bad:
            failures[lab] = str(bad)
    return blank, failures


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
    """
    blank = {lab: n for lab, n in embed(federation, model).items() if n}
    integration = integrate(federation, config, model.dimensions)
    found = find_clusters(federation, config, model, integration.name)
    types = federation.types
    clusters = _clusters(found, config, model.digest, integration.name)
    vocabulary = np.array(model.preprocessing.vocabulary, dtype=object)
    ask = federation.ask(
        asking.CLUSTERS,
        asking.about_clusters(clusters, vocabulary),
        no_clusters(vocabulary, model.preprocessing.kind),
    )
    log(INFO, "markers and types of %d clusters", clusters.k)
    target_sum = model.preprocessing.target_sum
    if types:
        ask = together(
            ask, markers_question(clusters.k, target_sum), types_question(types, clusters.k)
        )
    markers = learn_markers(ask, clusters.k, target_sum)
    warnings = [*integration.warnings, *found.warnings]
    if blank:  # every lab reads the warning, the log only who leads the run
        of_labs = ", ".join(f"{n} of {lab}" for lab, n in sorted(blank.items()))
        log(INFO, "cells without a value in any of the model's genes: %s", of_labs)
        warnings.append(blank_cells(sum(blank.values())))
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


def _clusters(found: Found, config: Config, model: str, integration: str) -> Clusters:
    """Choose the clusters the cells get, and draw the map."""
    by_kmeans = config.analysis.cluster_by == "kmeans"
    graph, kmeans = found.graph, found.kmeans if by_kmeans else None
    communities, sizes = graph.communities[FIRST], graph.sizes[FIRST]
    k = int(communities.max()) + 1
    sizes, centres = sizes[:k], None
    if kmeans is not None:
        sizes, centres = kmeans.sizes, kmeans.centres
    places = None
    if config.analysis.draw_map:
        log(INFO, "map of %d micro-centres (draw-map = false saves the time)", len(communities))
        places = learn_map(graph.micro, config.run.seed)
    shares = np.zeros(len(sizes))
    return Clusters(
        graph.micro, communities, centres, sizes, places, (), shares, model, integration
    )
