"""The table: means, paired differences, published values beside."""

import json
from itertools import product

import numpy as np
import pytest

from simulations.bench.cell import Cell
from simulations.bench.suite import Data, Line, Place, Published, Suite
from simulations.bench.table import frame, markdown, paired


def test_paired_differences_against_a_direct_calculation():
    line = {0: 0.5, 1: 0.6, 2: 0.7, 9: 0.0}
    reference = {0: 0.4, 1: 0.65, 2: 0.5, 3: 1.0}
    found = paired(line, reference)
    differences = np.array([0.1, -0.05, 0.2])
    assert found.mean == pytest.approx(differences.mean())
    assert (found.better, found.n) == (2, 3)
    assert found.p == 1.0  # 2 of 3 says nothing
    # The exact bootstrap: all 27 resamples of three seeds.
    means = [np.mean(drawn) for drawn in product(differences, repeat=3)]
    interval = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx(tuple(interval))


def test_five_better_seeds_cannot_be_surer_than_one_in_sixteen():
    found = paired({s: 1.0 + s / 10 for s in range(5)}, dict.fromkeys(range(5), 0.5))
    assert found.p == pytest.approx(2 / 2**5)
    assert found.low > 0


def test_ties_do_not_count_in_the_sign_test():
    assert paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}).p == 1.0


def test_fewer_than_two_common_seeds_are_not_compared():
    assert paired({0: 1.0, 1: 2.0}, {1: 1.0, 2: 1.0}) is None


def row(cell, **scores):
    return {
        "cell": cell.key,
        "dataset": cell.dataset,
        "seed": cell.seed,
        "k_is": "true k",
        "silhouette": None,
        "calinski_harabasz": 1234.5,
        "cpu_seconds": 10.0,
        "bytes_to_labs": 1_000_000,
        "bytes_from_labs": 2_000_000,
        "warning": "",
        **scores,
    }


@pytest.fixture
def done():
    suite = Suite(
        title="T",
        about="A",
        reference="ours",
        controls=("ours",),
        datasets=(Data(name="x"),),
        lines=(Line(name="ours", method="fedsc"), Line(name="theirs", method="pca")),
        published=(Published(line="theirs", dataset="x", scores=(1.0, 2.0, 3.0)),),
    )
    planned, rows = [], {}
    for seed in range(3):
        for name, control, ari in (
            ("ours", False, 0.4),
            ("ours", True, 0.6),
            ("theirs", False, 0.5),
        ):
            method = "fedsc" if name == "ours" else "pca"
            cell = Cell(method=method, dataset="x", seed=seed, options={"control": control})
            planned.append((Place("x", name, (), control), cell))
            rows[cell.key] = row(cell, ari=ari + seed / 100, nmi=0.7)
    return suite, planned, rows


def cells_of(page, name):
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_page_has_means_differences_and_published_values(done):
    page = markdown(*done, "run it")
    assert cells_of(page, "ours")[1:6] == ["true k", "41.0 ± 1.0", "70.0 ± 0.0", "–", "reference"]
    theirs = cells_of(page, "theirs")
    assert theirs[2] == "51.0 ± 1.0"
    assert theirs[5].startswith("+10.0 [+10.0, +10.0], 3/3")
    assert theirs[6] == "1.00 / 2.00 / 3.00"
    assert theirs[7:] == ["3", "10", "3", "1234"]
    assert cells_of(page, "ours, IID control")[5].startswith("+20.0")


def test_a_suite_of_many_sets_begins_with_means_over_those_that_are_finished():
    sets = [Data(name=f"set{i}", batches="lab" if i < 3 else "") for i in range(6)]
    lines = (Line(name="ours", method="fedpca"), Line(name="slow", method="pca"))
    suite = Suite(
        title="T", about="A", reference="ours", controls=("ours",), datasets=sets, lines=lines
    )
    planned, rows = [], {}
    for i, data in enumerate(sets):
        for line in lines:
            for seed in range(2):
                cell = Cell(method=line.method, dataset=data.name, seed=seed, options={})
                planned.append((Place(data.name, line.name), cell))
                if data.name != "set5" and (line.name, data.name) != ("slow", "set1"):
                    rows[cell.key] = row(cell, ari=i / 10 + seed / 100, nmi=0.5)
    page = markdown(suite, planned, rows, "run it")
    first, second = page.split("## All sets ")[1:]
    assert "Mean over 3 sets: set0, set1, set2." in first
    assert "| ours | 10.5 | 50.0 | – | 2 |" in first
    assert "slow" not in first  # it lacks a set
    second = second.split("## set0")[0]
    assert "Mean over 2 sets: set3, set4." in second
    assert "| ours | 35.5 | 50.0 | – | 2 |" in second
    assert "| slow | 35.5 | 50.0 | – | 2 |" in second


def test_the_distance_to_the_published_figures_is_a_mean_over_rows_and_knows_readings():
    lines = (
        Line(name="ours", method="pca"),
        Line(name="other", method="leiden", reading_of="ours"),
        Line(name="unprinted", method="nmf"),
    )
    printed = {"a": (50.0, 60.0, 0.0), "b": (60.0, 60.0, 0.0)}
    suite = Suite(
        title="T",
        about="A",
        reference="ours",
        datasets=(Data(name="a"), Data(name="b")),
        lines=lines,
        published=tuple(
            Published(line="ours", dataset=name, scores=scores) for name, scores in printed.items()
        ),
    )
    ari = {("ours", "a"): 0.4, ("ours", "b"): 0.8, ("other", "a"): 0.5, ("unprinted", "a"): 0.1}
    planned, rows = [], {}
    for (name, dataset), mean in ari.items():
        for seed in range(2):
            method = next(line.method for line in lines if line.name == name)
            cell = Cell(method=method, dataset=dataset, seed=seed, options={})
            planned.append((Place(dataset, name), cell))
            rows[cell.key] = row(cell, ari=mean + (seed - 0.5) / 10, nmi=0.5)
    page = markdown(suite, planned, rows, "run it")
    distances = page.split("## Distance to the published figures")[1].split("## a")[0]
    # ours: 40 − 50 and 80 − 60 in ARI, twice 50 − 60 in NMI.
    assert cells_of(distances, "ours")[1:] == ["2", "+5.0", "15.0", "-10.0", "10.0", "2"]
    assert cells_of(distances, "other")[1:] == ["1", "+0.0", "0.0", "-10.0", "10.0", "2"]
    assert "unprinted" not in distances
    assert cells_of(page.split("## a")[1], "other")[6] == "50.00 / 60.00 / 0.00"


def test_one_published_row_a_line_needs_no_table_of_distances(done):
    assert "Distance" not in markdown(*done, "run it")


def test_missing_runs_make_a_smaller_table_not_a_wrong_one(done):
    suite, planned, rows = done
    few = {k: r for k, r in rows.items() if r["seed"] == 0 and r["cell"].startswith("fedsc")}
    page = markdown(suite, planned, few, "run it")
    assert cells_of(page, "ours")[2] == "40.0"
    assert "| theirs |" not in page
    assert page.endswith("**Not run** (rows: 1): `run it` would.\n\n- x: theirs\n")


def test_costs_that_are_not_known_are_left_out_of_the_median(done):
    suite, planned, rows = done
    for found in rows.values():
        if found["seed"] == 0:
            found.update(cpu_seconds=None, bytes_to_labs=None)
    assert cells_of(markdown(suite, planned, rows, "run it"), "ours")[8:10] == ["10", "3"]


def test_warnings_of_rows_are_on_the_page(done):
    suite, planned, rows = done
    next(iter(rows.values()))["warning"] = "scale = 'lab' leaks"
    list(rows.values())[2]["warning"] = "the graph has a single cluster at resolution 0.4"
    page = markdown(suite, planned, rows, "run it")
    assert "**Warning** (x, ours, seed 0): scale = 'lab' leaks." in page
    assert "single cluster" not in page  # the line is about k-means
    assert cells_of(page, "theirs")[2] == "51.0 ± 1.0"
    assert cells_of(page, "ours (see the warning)")[2] == "41.0 ± 1.0"


def test_a_frame_has_a_row_per_finished_cell(done):
    suite, planned, rows = done
    found = frame(suite, planned, rows)
    assert len(found) == 9
    assert set(found.loc[found["control"], "line"]) == {"ours"}
    assert set(found["at"]) == {json.dumps({})}
    assert found["config_hash"].nunique() == 9
    ends = [cell.rsplit("-", 2)[1] for cell in found["cell"]]
    assert ends == list(found["config_hash"])


def test_two_lines_share_a_run_and_show_the_clusters_each_is_about():
    suite = Suite(
        title="T",
        about="A",
        reference="graph",
        controls=("graph",),
        datasets=(Data(name="x"),),
        lines=(
            Line(name="graph", method="fedpca", clusters="graph"),
            Line(name="k-means", method="fedpca"),
        ),
        mixing=True,
    )
    planned, rows = [], {}
    for seed in range(2):
        cell = Cell(method="fedpca", dataset="x", seed=seed, options={})
        planned += [(Place("x", line.name), cell) for line in suite.lines]
        graph = {"graph_ari": 0.8, "graph_nmi": 0.9, "graph_rare_f1": 0.3}
        graph["graph_clusters"] = 7 + seed
        rows[cell.key] = row(
            cell, ari=0.5, nmi=0.6, clusters=None, rare_f1=0.2, ilisi=0.25, **graph
        )
    page = markdown(suite, planned, rows, "run it")
    assert cells_of(page, "graph")[1:6] == [
        "graph: 7 to 8",
        "80.0 ± 0.0",
        "90.0 ± 0.0",
        "30.0 ± 0.0",
        "25.0 ± 0.0",
    ]
    assert cells_of(page, "k-means")[1:5] == ["true k", "50.0 ± 0.0", "60.0 ± 0.0", "20.0 ± 0.0"]
    shown = "ARI / NMI / rare F1 / iLISI / cLISI / batch ASW / type ASW / connectivity in %"
    assert shown in page
    found = frame(suite, planned, rows)
    assert sorted(found["ari"]) == [0.5, 0.5, 0.8, 0.8]
