"""Rows in the repository, and the tables that the pages of results make of them."""

import json
import os
import re

import pandas as pd
import pytest

from simulations.bench import pages
from simulations.bench.cell import Cell, data_digest
from simulations.bench.suite import load, plan, suites

SUITE = """
title = "T"
about = "A"
reference = "two"
seeds = 2
datasets = [{ name = "pbmc68k_reduced" }, { name = "klein_mouse_es" }]
lines = [
  { name = "two", method = "pca", options = { components = 2, k = "true" } },
  { name = "fifty", method = "pca", options = { components = 50, k = "true" } },
]
published = [{ line = "two", dataset = "pbmc68k_reduced", scores = [19.0, 31.21, 40.24] }]
"""


def test_every_table_on_the_pages_is_that_of_the_rows():
    shown = pages.pages_with_tables()
    assert len(shown) > 5
    for page in shown:
        text = page.read_text(encoding="utf-8")
        assert text == pages.with_tables(text, pages.ROWS), (
            f"{page.name}: run python -m simulations.bench.pages"
        )


def test_every_score_of_a_verdict_stands_in_a_table_of_its_page_or_of_one_it_links():
    for page in pages.pages_with_tables():
        text = page.read_text(encoding="utf-8")
        verdict = re.search(r"\*\*Verdict\*\*.*?(?=\n#)", text, re.S)[0]
        known = scores_in_tables(page, *linked(page, verdict))
        assert not scores_of(verdict) - known, page.name


def test_every_score_of_the_first_page_stands_in_a_table_of_the_page_its_row_links():
    front = pages.DOCS / "results.md"
    rows = [row for row in front.read_text(encoding="utf-8").splitlines() if row[:3] == "| ["]
    assert len(rows) > 10
    for row in rows:
        assert not scores_of(row) - scores_in_tables(*linked(front, row)), row


def linked(page, text):
    """Pages that a text of a page links."""
    return [(page.parent / name).resolve() for name in re.findall(r"\]\(([^()\s]+\.md)[#)]", text)]


def scores_of(text):
    """Numbers with one or two digits after the point: scores, as tables print them."""
    return set(re.findall(r"(?<![\d.])\d+\.\d\d?(?![\d.])", text))


def scores_in_tables(*shown):
    lines = "\n".join(page.read_text(encoding="utf-8") for page in shown).splitlines()
    return scores_of("\n".join(line for line in lines if line.startswith("|")))


def test_every_suite_stands_on_one_page():
    text = "".join(page.read_text(encoding="utf-8") for page in pages.pages_with_tables())
    for name in suites():
        assert text.count(f"<!-- rows of {name} -->") == 1, name
    for path in pages.ROWS.glob("*.csv"):
        assert path.stem in suites()


def test_every_kept_row_is_of_a_place_of_its_suite_and_says_what_made_it():
    for path in pages.ROWS.glob("*.csv"):
        rows, suite = pages.read_rows(path), load(path.stem)
        planned = {cell.digest for _, cell in plan(suite)}
        assert set(rows["config_hash"]) <= planned, path.name
        assert rows[["code", "data", "torch"]].notna().all(axis=None), path.name
        assert not rows.duplicated(["line", "at", "control", "dataset", "seed"]).any()


@pytest.fixture
def suite(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    monkeypatch.setattr("simulations.bench.suite.suites", lambda: {"mine": path})
    return load("mine")


def finish(cells, cell, ari, code="aaaaaaaa", **other):
    """Leave what a finished run leaves."""
    row = {
        "cell": cell.key,
        "method": cell.method,
        "dataset": cell.dataset,
        "seed": cell.seed,
        "code": code,
        "data": data_digest(cell.dataset),
        "options": json.dumps(cell.options),
        "k_is": "true k",
        "ari": ari,
        "nmi": 0.1 + 0.2,
        "silhouette": None,
        "cpu_seconds": 1.0,
        "bytes_to_labs": None,
        "bytes_from_labs": None,
        "warning": "",
        "torch": "2.0",
        **other,
    }
    folder = cells / f"{cell.name}-{code[:6]}"
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row))
    return folder


def cell_of(suite, line, seed=0) -> Cell:
    return next(
        cell
        for place, cell in plan(suite)
        if (place.dataset, place.line, cell.seed) == ("pbmc68k_reduced", line, seed)
    )


def test_rows_come_back_to_the_bit_and_become_a_table(suite, tmp_path):
    cells, csv = tmp_path / "cells", tmp_path / "mine.csv"
    for seed, ari in ((0, 0.1 + 0.2), (1, 0.5)):
        finish(cells, cell_of(suite, "two", seed), ari)
    assert pages.take(suite, cells, csv) == 2
    rows = pages.read_rows(csv)
    assert rows["ari"].tolist() == [0.1 + 0.2, 0.5]
    text = pages.block("mine", rows)
    assert (
        "| two | true k | 40.0 ± 14.1 | 30.0 ± 0.0 | – | reference | 19.00 / 31.21 / 40.24 | 2"
        in text
    )
    assert "`fedsc bench mine --seeds 2`, as far as it has run" in text
    assert "Made with torch 2.0. Digest of the code: `aaaaaaaa`." in text
    assert "- pbmc68k_reduced: fifty" in text
    assert "not at hand (`fedsc datasets` tells where each comes from): klein_mouse_es" in text


def test_rows_stay_until_the_same_run_is_taken_again(suite, tmp_path):
    csv = tmp_path / "mine.csv"
    finish(tmp_path / "one", cell_of(suite, "fifty"), 0.3)
    finish(tmp_path / "one", cell_of(suite, "two"), 0.2)
    pages.take(suite, tmp_path / "one", csv)
    finish(tmp_path / "two", cell_of(suite, "fifty"), 0.6, code="bbbbbbbb")
    assert pages.take(suite, tmp_path / "two", csv) == 1
    assert pages.take(suite, tmp_path / "none", csv) == 0
    rows = pages.read_rows(csv)
    assert rows[["line", "ari", "code"]].to_dict("list") == {
        "line": ["two", "fifty"],
        "ari": [0.2, 0.6],
        "code": ["aaaaaaaa", "bbbbbbbb"],
    }


def test_the_newest_of_several_codes_counts_and_other_data_does_not(suite, tmp_path):
    cells, cell = tmp_path / "cells", cell_of(suite, "two")
    newer = finish(cells, cell, 0.6, code="aaaaaaaa")
    older = finish(cells, cell, 0.3, code="bbbbbbbb")
    finish(cells, cell, 0.9, code="cccccccc", data="00000000")
    for age, folder in enumerate((older, newer)):
        os.utime(folder / "row.json", (age, age))
    pages.take(suite, cells, tmp_path / "mine.csv")
    assert pages.read_rows(tmp_path / "mine.csv")["ari"].tolist() == [0.6]


def test_text_around_the_tables_stays(suite, tmp_path):
    finish(tmp_path / "cells", cell_of(suite, "two"), 0.25)
    pages.take(suite, tmp_path / "cells", tmp_path / "mine.csv")
    page = "# A\n\nbefore\n\n<!-- rows of mine -->\nstale\n<!-- end of rows -->\n\nafter\n"
    written = pages.with_tables(page, tmp_path)
    assert written.startswith("# A\n\nbefore\n\n<!-- rows of mine -->\n")
    assert written.endswith("<!-- end of rows -->\n\nafter\n")
    assert "stale" not in written
    assert "| two | true k | 25.0 |" in written
    assert pages.with_tables(written, tmp_path) == written


def test_a_suite_without_rows_says_so(suite):
    text = pages.block("mine", pages.read_rows(pages.ROWS / "mine.csv"))
    assert text.startswith("**Not run** (rows: 4): `fedsc bench mine --seeds 2` would.")
    assert isinstance(pages.read_rows(pages.ROWS / "mine.csv"), pd.DataFrame)
