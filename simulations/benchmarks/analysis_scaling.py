"""How much memory and time the analysis at the end of a run takes, from 10⁴ cells to 10⁶.

``python -m simulations.benchmarks.analysis_scaling --cells 10000 100000 --most 256 1024`` makes
synthetic cells in eight labs, in a process of its own for each size and cap on micro-centres,
and takes them through Harmony, graph clusters, markers and the map. Types are of unlike sizes, the
rarest 0.1 % of the cells, and labs are shifted. Time and memory should grow with the cells.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from fedsc.clusters import Clusters
from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.federated import answers
from fedsc.federated.clustered import Clustered
from fedsc.federated.correction import BatchedCells
from fedsc.federated.graph import agreement, learn_graph
from fedsc.federated.map import learn_map
from fedsc.federated.markers import learn_markers
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import ask_locally
from fedsc.rng import numpy_generator
from simulations.harmony import integrate_here

_LABS, _TYPES, _DIMENSIONS, _INFORMATIVE = 8, 20, 50, 20
_GENES, _PER_CELL, _OWN = 2000, 60, 20  # genes; counts of a cell; marker genes of a type
_RESOLUTIONS = (0.3, 0.4, 0.5)
_ROWS = 10_000  # cells whose counts are drawn at a time


def make_labs(cells: int, seed: int) -> list[tuple[np.ndarray, Expression]]:
    """Draw embedding, float32 (n, 50), and counts of the cells of every lab."""
    rng = numpy_generator(seed, "analysis-scaling", cells)
    shares = 0.75 ** np.arange(_TYPES)
    centres = np.zeros((_TYPES, _DIMENSIONS))
    centres[:, :_INFORMATIVE] = rng.normal(scale=1.5, size=(_TYPES, _INFORMATIVE))
    rates = rng.gamma(0.5, size=_GENES) * np.ones((_TYPES, 1))
    for kind in range(_TYPES):
        rates[kind, kind * _OWN : (kind + 1) * _OWN] += 5
    cumulative = (rates / rates.sum(axis=1, keepdims=True)).cumsum(axis=1)
    labs = []
    for n in np.diff(np.linspace(0, cells, _LABS + 1).astype(int)):
        kinds = rng.choice(_TYPES, n, p=shares / shares.sum())
        shift = np.zeros(_DIMENSIONS)
        shift[:_INFORMATIVE] = rng.normal(scale=0.5, size=_INFORMATIVE)
        x = rng.standard_normal((n, _DIMENSIONS), dtype=np.float32)
        x += (centres[kinds] + shift).astype(np.float32)
        parts = [_counts(kinds[i : i + _ROWS], cumulative, rng) for i in range(0, n, _ROWS)]
        names = np.arange(n).astype(str).astype(object)
        obs = pd.DataFrame({"kind": pd.Categorical([f"{kind:02d}" for kind in kinds])}, index=names)
        genes = np.array([f"gene {i}" for i in range(_GENES)], dtype=object)
        labs.append(
            (
                x,
                Expression(genes, names, obs, "counts", vstack(parts, "csr"), label_key="kind"),
            )
        )
    return labs


def _counts(kinds: np.ndarray, cumulative: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    draws = rng.random((len(kinds), _PER_CELL))
    genes = np.empty(draws.shape, dtype=np.int32)
    for kind in np.unique(kinds):
        genes[kinds == kind] = np.searchsorted(cumulative[kind], draws[kinds == kind])
    ends = np.arange(len(kinds) + 1) * _PER_CELL
    data = np.ones(genes.size, dtype=np.float32)
    shape = len(kinds), cumulative.shape[1]
    block = csr_matrix((data, np.minimum(genes, shape[1] - 1).ravel(), ends), shape=shape)
    block.sum_duplicates()
    return block


def measure(cells: int, most: int, seed: int, harmony: bool) -> dict[str, Any]:
    """Analyse synthetic cells, and weigh this process: CPU seconds of all labs and the server."""
    labs = make_labs(cells, seed)
    found: dict[str, Any] = {"made GB": _peak(), "cells": cells, "most": most}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        done = work()
        found[name] = round(time.process_time() - start, 1)
        return done

    x = [own for own, _ in labs]
    if harmony:
        batched = [BatchedCells(own, np.zeros(len(own), dtype=np.int64)) for own in x]
        integrated, states = timed("harmony s", lambda: integrate_here(batched, seed))
        x = [state.corrected for state in states]
        found["harmony questions"] = len(integrated.questions)
    embedded = [Embedded(own, cells.labels) for own, (_, cells) in zip(x, labs, strict=True)]
    ask = ask_locally(embedded, answers.answer)
    kinds = [f"{kind:02d}" for kind in range(_TYPES)]
    graph = timed("graph s", lambda: learn_graph(ask, _RESOLUTIONS, seed, most, kinds))
    scores = agreement(graph)[1]
    found |= {"nodes": len(graph.micro.centres), "clusters": int((graph.sizes[1] > 0).sum())}
    found |= {name: round(score or 0.0, 3) for name, score in scores.items()}
    k = int(graph.communities[1].max()) + 1
    clusters = Clusters(
        graph.micro, graph.communities[1], None, graph.sizes[1][:k], None, (), np.zeros(k), "", ""
    )

    def describe() -> Any:
        clustered = [
            Clustered(align(cells, cells.genes), clusters.assign(own), cells.labels)
            for own, (_, cells) in zip(x, labs, strict=True)
        ]
        return learn_markers(ask_locally(clustered, answers.answer), k, 1e4)

    timed("markers s", describe)
    timed("map s", lambda: learn_map(graph.micro, seed))
    return {**found, "peak GB": _peak()}


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    """Measure and print, one line of JSON for each number of cells and cap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--most", type=int, nargs="+", default=[256], help="micro-centres a set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-harmony", action="store_true")
    parser.add_argument("--here", action="store_true", help="measure the first in this process")
    options = parser.parse_args()
    if options.here:
        harmony = not options.no_harmony
        found = measure(options.cells[0], options.most[0], options.seed, harmony)
        print(json.dumps(found), flush=True)  # noqa: T201
        return
    for cells in options.cells:
        for most in options.most:
            command = [sys.executable, "-m", "simulations.benchmarks.analysis_scaling", "--here"]
            command += ["--cells", str(cells), "--most", str(most), "--seed", str(options.seed)]
            command += ["--no-harmony"] if options.no_harmony else []
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
