"""Rows of the repository, run again."""

import pytest

from fedsc.errors import RunError
from simulations.bench.cell import run_cell
from simulations.bench.pages import read_rows, take
from simulations.bench.repeat import repeat
from simulations.bench.suite import load, plan

SUITE = """
title = "T"
about = "A"
reference = "pca"
seeds = 2
datasets = [{ name = "pbmc68k_reduced" }]
lines = [
  { name = "pca", method = "pca", options = { k = "true", components = 5 } },
  { name = "two", method = "pca", options = { k = "true", components = 2 } },
]
"""


@pytest.fixture
def kept(tmp_path):
    """Run a suite of two lines and two seeds, and keep its rows; the later cost less."""
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    suite = load(str(path))
    for _, cell in plan(suite):
        run_cell(cell, tmp_path / "cells")
    take(suite, tmp_path / "cells", tmp_path / "mine.csv")
    rows = read_rows(tmp_path / "mine.csv")
    return suite, rows.assign(cpu_seconds=[4.0, 3.0, 2.0, 1.0])


@pytest.mark.slow
def test_the_cheapest_row_of_each_line_comes_out_to_the_digit(kept, tmp_path):
    suite, rows = kept
    cells = {(place.line, cell.seed): cell for place, cell in plan(suite)}
    assert list(repeat(suite, rows, 2, tmp_path / "again")) == [
        f"{cells['two', 1].name}: equal",
        f"{cells['pca', 1].name}: equal",
    ]


def test_a_row_that_comes_out_otherwise_is_told(kept, tmp_path):
    suite, rows = kept
    wrong = rows.assign(ari=rows["ari"] + 1e-12)
    (line,) = repeat(suite, wrong, 1, tmp_path / "again")
    assert f"ari {float(wrong['ari'][3])} is now {float(rows['ari'][3])}" in line
    assert "nmi" not in line


def test_every_score_is_held_against_the_kept_one_not_just_the_first_three(kept, tmp_path):
    suite, rows = kept
    wrong = rows.assign(rare_f1=0.0, clusters=99.0)
    (line,) = repeat(suite, wrong, 1, tmp_path / "again")
    assert "rare_f1 0.0 is now" in line
    assert "clusters 99.0 is now" in line
    assert "seconds" not in line


def test_a_run_that_is_there_is_no_repetition(kept, tmp_path):
    with pytest.raises(RunError, match="already"):
        next(repeat(*kept, 1, tmp_path / "cells"))
