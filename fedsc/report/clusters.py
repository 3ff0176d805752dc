"""The pool's clusters: their cells, markers and suggested types, and the map."""

from fedsc.report.parts import Section, about_unknown, cluster_table, map_pictures, share
from fedsc.results import Run


def clusters(run: Run) -> Section | None:
    """List the clusters, the largest first."""
    found = run.clusters
    if found is None:
        return None
    markers = run.markers
    by_graph = found.centres is None
    graph = run.record.get("graph") or {}
    labs = [str(n) for n in graph.get("labs", ())][: found.k] if by_graph else []
    higher = markers[markers["score"] > 0]
    of_cluster = (higher[higher["cluster"] == cluster] for cluster in range(found.k))
    genes = [
        [f"{m.gene} ({m.labs_supporting}/{m.labs_measured})" for m in best.itertuples()]
        for best in of_cluster
    ]
    texts = []
    if by_graph and graph.get("stability") is not None:
        texts.append(
            f"Stability {graph['stability']:.2f}: how much the clusters agree (ARI) with those of "
            "a somewhat lower or higher resolution. Near 1 they do not depend on that choice; "
            "below 0.6 they do."
        )
    if found.types:
        texts.append(
            "A type is a suggestion: of the cluster's annotated cells, the share in brackets has "
            f"it. {about_unknown(run.options)}"
        )
    texts.append(
        "A gene is followed by the number of labs in which it is higher inside the cluster than "
        "outside, of the labs that can say."
    )
    figures = {
        "cells": [f"{size:,}" for size in found.sizes],
        "share": [share(size / max(found.sizes.sum(), 1)) for size in found.sizes],
        "labs": labs + ["–"] * (found.k - len(labs)),
    }
    caption = f"The {found.k} clusters of the pool, the largest first"
    table = cluster_table(caption, figures, found.types, found.shares, genes)
    return Section("Clusters", texts, tables=[table])


def cluster_map(run: Run) -> Section | None:
    """Show the map that all labs share, if the run drew one."""
    found = run.clusters
    if found is None or (found.places is None and "x" not in run.cells):
        return None
    places, table = run.places()
    titles = {"fedsc_cluster": "Cluster", "fedsc_type": "Suggested type", "lab": "Lab"}
    groups = {title: table[name] for name, title in titles.items() if name in table}
    points = "cells" if "lab" in table else "micro-centres (groups of some cells)"
    texts = ["Near points are alike; distances between far groups mean little."]
    return Section("Map", texts, pictures=map_pictures(places, groups, points))
