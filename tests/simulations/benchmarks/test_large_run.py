import json

import anndata
import numpy as np
import pytest

from fedsc.data.reading.kind import judge, look_at
from simulations.benchmarks import large_run
from simulations.benchmarks.large_run import draw, measure, slope, write_labs


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labs")
    write_labs(folder, cells=300, genes=400, per_cell=60, labs=3, seed=0)
    return folder


def test_labs_are_raw_counts_of_the_size_that_was_asked_for(labs, tmp_path):
    found = [anndata.read_h5ad(file) for file in sorted(labs.iterdir())]
    assert [cells.shape for cells in found] == [(100, 400)] * 3
    for cells in found:
        assert judge(look_at(cells.X)) == ("counts", [])
        assert cells.X.has_canonical_format
        assert cells.X.nnz / 100 == pytest.approx(60, rel=0.15)
    assert len({str(cells.X.sum()) for cells in found}) == 3
    write_labs(tmp_path, cells=300, genes=400, per_cell=60, labs=3, seed=0)
    again = anndata.read_h5ad(tmp_path / "lab-001.h5ad")
    assert (again.X != found[1].X).nnz == 0


def test_types_have_markers(labs):
    cells = anndata.read_h5ad(labs / "lab-000.h5ad")
    kinds = cells.obs["cell_type"].cat.codes.to_numpy()
    first, rest = cells.X[kinds == 0].mean(axis=0), cells.X[kinds != 0].mean(axis=0)
    assert np.asarray(first / (rest + 0.05)).max() > 4


@pytest.mark.slow
def test_a_run_is_weighed_and_its_phases_are_timed(labs, tmp_path, monkeypatch):
    monkeypatch.setattr(large_run, "_SECONDS", 0.01)
    options = {"method": "fedpca", "n_genes": 50, "files": False, "draw_map": False}
    found = measure(labs, tmp_path, {**options, "integrate": "harmony"})
    assert (found["cells"], found["labs"]) == (300, 3)
    assert set(found["phases"]) == set(large_run.PHASES.values()) - {"training", "floor", "map"}
    rounded = 0.05 * (1 + len(found["phases"]))
    assert 0 < sum(found["phases"].values()) <= found["cpu_s"] + rounded
    assert 0 < found["peak_own_gb"] <= found["peak_gb"]
    assert len(found["memory"]) > 10
    assert -1 <= found["graph"]["ari"] <= 1

    places = [place.split(":") for place in large_run.PHASES]
    assert not any("timed" in repr(_of(*place)) for place in places)  # all is as it was
    other = {**found, "cells": 3000, "cpu_s": 10 * found["cpu_s"]}
    draw([other, found], tmp_path / "figure.svg")
    assert "CPU seconds" in (tmp_path / "figure.svg").read_text()
    json.dumps(found)


def test_a_run_without_integration_is_held_against_the_types_too(labs, tmp_path):
    options = {"method": "fedsc", "rounds": 2, "local_epochs": 1, "n_genes": 50}
    found = measure(labs, tmp_path, {**options, "files": False, "draw_map": False})
    assert "training" in found["phases"]
    assert -1 <= found["graph"]["ari"] <= 1


def _of(module, path):
    import importlib

    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_the_slope_of_what_is_linear_is_one():
    assert slope([10, 100, 1000], [2, 20, 200]) == pytest.approx(1)
    assert slope([10, 100], [1, 100]) == pytest.approx(2)


def test_growth_is_the_difference_of_two_sizes_scaled_to_a_million_cells(monkeypatch):
    asked = []

    def child(folder, options, scratch):
        cells = sum(anndata.read_h5ad(file).n_obs for file in folder.iterdir())
        asked.append((cells, options["n_genes"], options["integrate"]))
        turn = len(asked) > 2
        return {"cells": cells, "cpu_s": 10 + turn + (1 + turn) * cells, "peak_gb": 1 + cells / 50}

    monkeypatch.setattr(large_run, "_child", child)
    found = large_run.growth((80, 160), 2, genes=100, per_cell=20, options={"n_genes": 50})
    assert asked == [(cells, 50, "harmony") for cells in (80, 160)] * 2
    assert found["analysis_cpu_s_per_million"] == pytest.approx([1e6, 2e6])
    assert found["peak_gb_per_million"] == pytest.approx([2e4, 2e4])


@pytest.mark.slow
@pytest.mark.long
def test_growth_of_tiny_labs_is_measured():
    found = large_run.growth((400, 800), 1, genes=400, per_cell=60, options={"n_genes": 50})
    assert [len(figures) for figures in found.values()] == [1, 1]
    assert all(np.isfinite(figures).all() for figures in found.values())
