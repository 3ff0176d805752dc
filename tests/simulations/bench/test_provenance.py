"""A row is used again only if code and data are those it was made with."""

import os
import shutil
import sys

import pytest

from simulations.bench import provenance
from simulations.bench.cell import Cell, load_row, of_other_code_or_data, run_cell
from simulations.bench.provenance import code_digest, data_digest


@pytest.fixture
def fresh():
    """Forget digests, as a new process would; again at the end."""

    def forget():
        for cached in (code_digest, provenance._own_code, provenance._data):
            cached.cache_clear()

    yield forget
    forget()


@pytest.fixture
def copy(tmp_path, monkeypatch, fresh):
    """Give a copy of the source whose digest counts."""
    for room in provenance._ROOMS:
        ignored = shutil.ignore_patterns("__pycache__", "*.h5ad")
        shutil.copytree(provenance._ROOT / room, tmp_path / room, ignore=ignored)
    for file in provenance._FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(provenance._ROOT / file, tmp_path / file)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    fresh()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("fedsc/federated/kmeans.py", "+", "-", True),
        ("server_app/strategy.py", "0.5", "0.25", True),
        ("simulations/inprocess.py", "_SERVER = 1", "_SERVER = 2", True),
        ("fedsc/federated/kmeans.py", '"""', '"""Better words. ', False),
        ("fedsc/federated/kmeans.py", "\n\n", "\n\n# why\n", False),
        ("fedsc/plots.py", "import", "import sys, ", False),
        ("fedsc/cli/bench.py", '"', '"x', False),
    ],
)
def test_code_that_decides_results_counts_and_words_do_not(copy, fresh, file, old, new, counts):
    before = code_digest("fedsc")
    path = copy / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert code_digest("fedsc") == before  # of the code that this process has loaded
    fresh()
    assert (code_digest("fedsc") != before) == counts


def test_a_new_file_counts(copy, fresh):
    before = code_digest("fedsc")
    (copy / "fedsc" / "new.py").write_text("x = 1\n")
    fresh()
    assert code_digest("fedsc") != before


def test_an_objective_of_one_s_own_counts(copy, fresh, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_objective.py").write_text("OBJECTIVE = 1\n")
    before = code_digest("own_objective:OBJECTIVE")
    (tmp_path / "own_objective.py").write_text("OBJECTIVE = 2\n")
    fresh()
    assert code_digest("own_objective:OBJECTIVE") not in (before, code_digest("fedsc"))
    assert code_digest("no_such_module_at_all:X")
    assert "own_objective" not in sys.modules  # it is read, not run


def test_data_count_by_their_bytes(tiny_set, tmp_path):
    one = shutil.copy(tiny_set, tmp_path / "one.h5ad")
    two = shutil.copy(tiny_set, tmp_path / "two.h5ad")
    before = data_digest(str(one))
    assert before == data_digest(str(two))
    size = one.stat().st_size
    with open(one, "rb+") as file:
        file.seek(size - 1)
        last = file.read(1)[0]
        file.seek(size - 1)
        file.write(bytes([last ^ 1]))
    os.utime(one, ns=(1, 1))
    assert one.stat().st_size == size
    assert data_digest(str(one)) != before


def test_data_in_a_folder_count_by_names_and_bytes(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "A").write_bytes(b"x")
    before = data_digest(str(tmp_path / "labs"))
    (tmp_path / "labs" / "A").rename(tmp_path / "labs" / "B")
    assert data_digest(str(tmp_path / "labs")) != before


@pytest.mark.parametrize("dataset", ["", "nowhere.h5ad", "no-such-name"])
def test_data_that_are_not_there_are_absent(dataset):
    assert data_digest(dataset) == "absent"


def test_a_name_is_short_enough_for_a_run_folder(tmp_path):
    long = Cell(method="fedmoco-v1", dataset="x" * 29 + ".h5ad", seed=10, options={"rounds": 1})
    assert long.config(tmp_path).run.name == long.key


@pytest.mark.parametrize("changed", ["code", "data", "nothing"])
def test_a_row_of_other_code_or_data_is_not_used(tiny_set, tmp_path, copy, fresh, changed):
    path = shutil.copy(tiny_set, tmp_path / "cells.h5ad")
    options = {"k": "true"}
    run = Cell(method="pca", dataset=str(path), label_key="cell_type", seed=0, options=options)
    output = tmp_path / "out"
    row = run_cell(run, output)
    assert row["cell"] == run.key
    assert (row["code"], row["data"]) == (code_digest("pca"), data_digest(str(path)))
    if changed == "code":
        (copy / "fedsc" / "new.py").write_text("x = 1\n")
        fresh()
    elif changed == "data":
        import anndata

        cells = anndata.read_h5ad(path)
        cells[::-1].copy().write_h5ad(path)
    if changed == "nothing":
        assert load_row(run, output) == row
        assert not of_other_code_or_data(run, output)
        return
    assert load_row(run, output) is None
    assert of_other_code_or_data(run, output)
    again = run_cell(run, output)
    assert again["cell"] != row["cell"]
    assert again[changed] != row[changed]
