"""A lab's own report: its cells, made in the lab; nothing of it is sent."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedsc
from fedsc.data.additions import Annotation, cluster_column, type_column
from fedsc.report.page import render
from fedsc.report.parts import Section, Table, about_unknown, cluster_table, map_pictures, share
from fedsc.report.sent import what_left
from fedsc.sent import Answer

_SHOWN = ("run", "method", "rounds", "seed", "labs", "cells", "clusters", "integrated", "model")


def lab_report(results: Annotation, sizes: np.ndarray, sent: Sequence[Answer]) -> str:
    """Give the report of one lab as one HTML page that asks nothing of any other.

    Parameters
    ----------
    results
        Of the lab's cells, with ``about`` as :mod:`client_app.finish` makes it.
    sizes
        Cells of every cluster in the pool, int (k,).
    sent
        What the lab has sent so far, the oldest answer first.
    """
    about = results.about
    n = len(results.clusters)
    own = np.bincount(results.clusters, minlength=results.k)
    pool = int(sizes.sum())
    lead = [
        f"Lab {about['lab']} brought {n:,} of the {pool:,} cells of run {about['run']}.",
        f"The run found {results.k} clusters; {np.count_nonzero(own)} have cells of this lab.",
        "This page was made in the lab from its own file. It was sent to nobody.",
    ]
    texts = []
    if len(results.types):
        texts.append(
            "A type is a suggestion: of the cluster's annotated cells in the pool, the share in "
            f"brackets has it. {about_unknown(about['options'])}"
        )
    sections = [
        Section(
            "Clusters",
            texts,
            tables=[_clusters(results, own, sizes)],
        ),
        *_map(results),
        _trust(about),
        what_left(sent),
        _record(about),
    ]
    title = f"FedSC: lab {about['lab']} in run {about['run']}"
    return render(title=title, lead=lead, sections=sections, version=fedsc.__version__)


def _clusters(results: Annotation, own: np.ndarray, sizes: np.ndarray) -> Table:
    figures = {
        "cells here": [f"{size:,}" for size in own],
        "share here": [share(size / max(own.sum(), 1)) for size in own],
        "share in pool": [share(size / max(sizes.sum(), 1)) for size in sizes],
    }
    genes = [_higher(results.markers, str(cluster)) for cluster in range(results.k)]
    caption = "This lab's cells by cluster, beside the pool's"
    return cluster_table(caption, figures, results.types, results.shares, genes)


def _higher(markers: Mapping[str, Any] | None, cluster: str) -> list[str]:
    """Name the markers of a cluster, the best first; none where nothing could be tested."""
    if markers is None:
        return []
    scores = markers["scores"][cluster]
    return [str(gene) for gene in markers["names"][cluster][scores > 0]]


def _map(results: Annotation) -> list[Section]:
    if results.places is None:
        return []
    groups = {"Cluster": cluster_column(results.clusters, results.k)}
    if len(results.types):
        groups["Suggested type"] = type_column(results.types, results.clusters)
    return [Section("Map", pictures=map_pictures(results.places, groups, "cells"))]


def _trust(about: Mapping[str, Any]) -> Section:
    found = about["coverage"]
    text = (
        f"The lab's file has {found['measured']:,} of the {found['genes']:,} genes the model looks "
        f"at ({share(found['share'])}), with {share(found['weight'])} of its first layer's weight."
    )
    return Section("What to trust", [text], [about["warnings"]] if about["warnings"] else [])


def _record(about: Mapping[str, Any]) -> Section:
    rows = [(name, str(about[name])) for name in _SHOWN if name in about]
    rows += [(f"version of {name}", value or "–") for name, value in about["versions"].items()]
    return Section("The run", tables=[Table("What made these results", ("what", "value"), rows)])
