"""The warnings of a suite's runs: which of them concern a line, and which runs they are of."""

import json
import re
from collections.abc import Mapping

from simulations.bench.cell import Row
from simulations.bench.suite import Line, Place

_ABOUT = {
    "graph": re.compile(r"the graph( has|'s)"),
    "k-means": re.compile(r"\d+ of \d+ k-means clusters|no k-means|cluster-by = kmeans"),
    "cells": re.compile(r"no cluster has a type"),
}
"""How warnings about clusters begin: the graph's, those of k-means, those that cells get."""


def concerning(line: Line, row: Row) -> str:
    """Give a row's warnings without those about clusters that the line does not show."""
    options = json.loads(str(row.get("options") or "{}"))
    of_cells = "k-means" if options.get("cluster-by") == "kmeans" else "graph"
    shown = {line.clusters} | ({"cells"} if line.clusters == of_cells else set())
    hidden = [begin for clusters, begin in _ABOUT.items() if clusters not in shown]
    texts = str(row["warning"]).split("; ")
    return "; ".join(text for text in texts if not any(begin.match(text) for begin in hidden))


def sentences(by_place: Mapping[Place, Mapping[int, Row]]) -> list[str]:
    """Write every warning once, with the set, line and seeds of the runs that gave it."""
    runs: dict[str, dict[Place, list[int]]] = {}
    for place, seeds in by_place.items():
        for seed, row in seeds.items():
            if row["warning"]:
                runs.setdefault(str(row["warning"]), {}).setdefault(place, []).append(seed)
    return [
        f"**Warning** ({'; '.join(_run(place, seeds) for place, seeds in of.items())}): {text}."
        for text, of in sorted(runs.items())
    ]


def _run(place: Place, seeds: list[int]) -> str:
    """Name runs of a place."""
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{place.dataset}, {place.words}, {word} {', '.join(map(str, sorted(seeds)))}"
