import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from partitioning.table import plot, rich_table, table

LABELS = np.array(["b", "a", "b", "c[x]", "a", "b"])
PARTS = {"lab-0": np.array([0, 1, 5]), "lab-1": np.array([2, 4])}


def text(counts):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rich_table(counts))
    return capture.get()


def test_table_equals_crosstab():
    counts = table(PARTS, LABELS)
    rows = np.concatenate(list(PARTS.values()))
    labs = np.repeat(list(PARTS), [len(r) for r in PARTS.values()])
    expected = pd.crosstab(pd.Series(labs, name="lab"), LABELS[rows])
    assert counts["c[x]"].sum() == 0
    pd.testing.assert_frame_equal(counts.drop(columns="c[x]"), expected, check_names=False)


def test_table_without_types_counts_cells():
    assert table(PARTS, None).to_dict() == {"cells": {"lab-0": 3, "lab-1": 2}}


@pytest.mark.parametrize("turn", [False, True])
def test_rich_table_shows_names_counts_and_sums(turn):
    counts = table(PARTS, LABELS)
    shown = text(counts.T if turn else counts)
    assert "c[x]" in shown
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["b", "2", "1", "3"] in lines
    assert lines[-2] == ["all", "3", "2", "5"]


def test_long_side_goes_down():
    counts = table({f"lab-{i}": np.array([i]) for i in range(6)}, LABELS)
    assert "lab-5 │" in text(counts)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_is_written(tmp_path, ending):
    path = tmp_path / f"split.{ending}"
    plot(table(PARTS, np.array(["_b", "$a$", "_b", "c", "$a$", "_b"])), path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(magic)


def test_plot_copes_with_many_labs_and_types(tmp_path):
    counts = pd.DataFrame(np.ones((70, 41), dtype=int))
    plot(counts, tmp_path / "many.png")
    plot(table(PARTS, None), tmp_path / "cells.png")
    assert (tmp_path / "many.png").stat().st_size > 0
