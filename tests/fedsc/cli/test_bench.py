"""``fedsc bench``: what a person sees without running anything long."""

import pytest
from typer.testing import CliRunner

from fedsc.cli import app
from fedsc.errors import ConfigError, DataError
from simulations.bench.cell import run_cell
from simulations.bench.execute import Outcome
from simulations.bench.suite import load, plan


@pytest.fixture
def cli():
    def run(*arguments):
        result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_without_a_suite_the_suites_are_listed(cli):
    assert "fedsc-table1" in cli().output


def test_an_unknown_suite_is_refused(cli):
    with pytest.raises(ConfigError, match="fedsc-table7"):
        cli("fedsc-table7")


def test_sets_that_are_not_there_are_left_out_in_words(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path))
    monkeypatch.setattr("fedsc.data.registry.cache_folder", lambda: tmp_path)
    monkeypatch.setattr("fedsc.data.registry._download", _offline)
    with pytest.raises(DataError, match="none of the suite's sets"):
        cli("fedsc-table1", "--dataset", "mouse_bladder", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _offline(entry):
    raise DataError(f"{entry.name} could not be downloaded")


def test_tables_only_runs_nothing(cli, tmp_path):
    result = cli(
        "fedsc-table1", "--dataset", "pbmc68k_reduced", "--tables-only", "-o", tmp_path / "out"
    )
    assert result.exit_code == 0
    assert not (tmp_path / "out").exists()


SUITE = """
title = "T"
about = "A"
reference = "two"
seeds = 2
datasets = [{ name = "pbmc68k_reduced" }]
lines = [
  { name = "two", method = "pca", options = { k = "true", components = 2 } },
  { name = "five", method = "pca", options = { k = "true", components = 5 } },
]
"""


def test_a_quick_look_does_not_take_the_place_of_the_whole_suite(cli, tmp_path):
    suite, out = tmp_path / "mine.toml", tmp_path / "out"
    suite.write_text(SUITE)
    for _, cell in plan(load(str(suite))):
        run_cell(cell, out / "cells")
    cli(suite, "--tables-only", "-o", out)
    whole = {path.name: path.read_bytes() for path in (out / "mine").iterdir()}
    assert b"| five |" in whole["table.md"]
    cli(suite, "--tables-only", "-o", out, "--line", "two", "--seeds", 1)
    assert (out / "mine" / "table.md").read_bytes() == whole["table.md"]
    cli(suite, "--tables-only", "-o", out, "--set", "rounds=20")
    assert {path.name: path.read_bytes() for path in (out / "mine").iterdir()} == whole
    assert (out / "mine-rounds-20" / "table.md").exists()


def test_a_line_that_is_none_is_refused(cli, tmp_path):
    with pytest.raises(ConfigError, match="'FedSD' is no line of the suite: FedSC; FedBYOL"):
        cli("fedsc-table1", "--dataset", "pbmc68k_reduced", "--line", "FedSD", "-o", tmp_path)


def test_a_line_that_cannot_run_is_refused_before_another_does_whatever_is_chosen(cli, tmp_path):
    suite, out = tmp_path / "mine.toml", tmp_path / "out"
    suite.write_text(SUITE.replace("components = 5", "components = 0"))
    with pytest.raises(ConfigError, match="line 'five' on pbmc68k_reduced: option components = 0"):
        cli(suite, "-o", out, "--line", "two")
    assert not out.exists()


def test_a_run_that_fails_is_named_by_set_line_and_seed(tmp_path, monkeypatch):
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE)

    def run_cells(cells, *_):
        return Outcome({}, {cells[-1].key: "no memory"})

    monkeypatch.setattr("simulations.bench.execute.run_cells", run_cells)
    result = CliRunner().invoke(app, ["bench", str(suite), "-o", str(tmp_path / "out")])
    assert "pbmc68k_reduced, five, seed 1 failed: no memory (pca-pbmc68k_" in result.stderr
    assert str(result.exception) == "1 of 4 runs failed (see above)"
