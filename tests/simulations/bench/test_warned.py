"""Warnings of a suite's runs: each where it belongs, with the runs it is of."""

import json

import pytest

from simulations.bench.cell import Cell, run_cell
from simulations.bench.suite import Line, Place
from simulations.bench.warned import concerning, sentences

GRAPH = "the graph's clusters depend on the resolution (0.4): those at others agree little"
TYPES = "no cluster has a type that enough of its annotated cells share"
SINGLE = "2 of 16 k-means clusters hold a single cell: outliers took centres"
SPLIT = "cover = drop: 9 cells are in no lab; only the pooled scores count them"


@pytest.mark.parametrize(
    ("clusters", "options", "shown"),
    [
        ("k-means", {}, [SPLIT, SINGLE]),
        ("graph", {}, [SPLIT, GRAPH, TYPES]),
        ("k-means", {"cluster-by": "kmeans"}, [SPLIT, SINGLE, TYPES]),
        ("graph", {"cluster-by": "kmeans"}, [SPLIT, GRAPH]),
    ],
)
def test_a_line_has_the_warnings_about_the_clusters_it_shows(clusters, options, shown):
    row = {"warning": "; ".join([SPLIT, GRAPH, SINGLE, TYPES]), "options": json.dumps(options)}
    assert concerning(Line(name="a", method="fedsc", clusters=clusters), row) == "; ".join(shown)


def test_of_a_real_run_too(tiny_set, tmp_path):
    options = {"labs": 2, "partition": "iid", "n-genes": 30, "min-shared-genes": 10}
    cell = Cell(
        method="fedpca",
        dataset=str(tiny_set),
        label_key="cell_type",
        seed=0,
        options=options | {"resolution": 0.0001},
    )
    row = run_cell(cell, tmp_path)
    found = {
        clusters: concerning(Line(name="a", method="fedpca", clusters=clusters), row)
        for clusters in ("k-means", "graph")
    }
    assert "the graph has a single cluster at resolution 0.0001" in row["warning"]
    assert found == {"k-means": "", "graph": row["warning"]}


def test_a_warning_names_set_line_and_seeds_of_its_runs():
    one, other = {"warning": "a"}, {"warning": "b"}
    runs = {
        Place("x", "ours", (("rounds", 3),)): {0: one, 1: {"warning": ""}, 2: one},
        Place("y", "ours", control=True): {1: one, 0: other},
    }
    assert sentences(runs) == [
        "**Warning** (x, ours (rounds = 3), seeds 0, 2; y, ours, IID control, seed 1): a.",
        "**Warning** (y, ours, IID control, seed 0): b.",
    ]
