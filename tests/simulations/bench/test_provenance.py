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


SOURCE = {
    "fedsc/federated/kmeans.py": '"""Words."""\n\n\ndef f(x):\n    "Words."\n    return x + 1\n',
    "fedsc/plots/maps.py": "COLOUR = 1\n",
    "fedsc/cli/bench.py": "COLOUR = 1\n",
    "server_app/strategy.py": "SHARE = 0.5\n",
    "simulations/inprocess.py": "SERVER = 1\n",
    "simulations/bench/cell.py": "",
}


@pytest.fixture
def source(tmp_path, monkeypatch, fresh):
    """Give a small source whose digest counts."""
    root = tmp_path / "source"
    for file, text in SOURCE.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    monkeypatch.setattr(provenance, "_ROOT", root)
    fresh()
    return root


def test_the_source_is_there():
    assert all((provenance._ROOT / file).exists() for file in SOURCE)
    assert all((provenance._ROOT / room).is_dir() for room in provenance._ROOMS)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("fedsc/federated/kmeans.py", "+", "-", True),
        ("server_app/strategy.py", "0.5", "0.25", True),
        ("simulations/inprocess.py", "1", "2", True),
        ("fedsc/federated/kmeans.py", "Words", "Better words", False),
        ("fedsc/federated/kmeans.py", "\n\n", "\n# why\n\n", False),
        ("fedsc/plots/maps.py", "1", "2", False),
        ("fedsc/cli/bench.py", "1", "2", False),
    ],
)
def test_code_that_decides_results_counts_and_words_do_not(source, fresh, file, old, new, counts):
    before = code_digest("fedsc")
    (source / file).write_text(SOURCE[file].replace(old, new))
    assert code_digest("fedsc") == before  # of the code that this process has loaded
    fresh()
    assert (code_digest("fedsc") != before) == counts


def test_a_new_file_counts(source, fresh):
    before = code_digest("fedsc")
    (source / "fedsc" / "new.py").write_text("x = 1\n")
    fresh()
    assert code_digest("fedsc") != before


def test_an_objective_of_one_s_own_counts(source, fresh, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_objective.py").write_text("OBJECTIVE = 1\n")
    before = code_digest("own_objective:OBJECTIVE")
    (tmp_path / "own_objective.py").write_text("OBJECTIVE = 2\n")
    fresh()
    assert code_digest("own_objective:OBJECTIVE") not in (before, code_digest("fedsc"))
    assert code_digest("no_such_module_at_all:X")
    assert "own_objective" not in sys.modules  # it is read, not run


def test_what_an_objective_imports_from_its_own_folder_counts(source, fresh, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    texts = {"__init__": "from mine.near import far", "near": "from . import far", "far": "X = 1"}
    for name, text in {**texts, "other": "X = 1"}.items():
        (tmp_path / "mine" / f"{name}.py").write_text(text)
    before = code_digest("mine:OBJECTIVE")
    for name, counts in (("other", False), ("far", True)):
        (tmp_path / "mine" / f"{name}.py").write_text("X = 2")
        fresh()
        assert (code_digest("mine:OBJECTIVE") != before) == counts


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
def test_a_row_of_other_code_or_data_is_not_used(tiny_set, tmp_path, source, fresh, changed):
    path = shutil.copy(tiny_set, tmp_path / "cells.h5ad")
    options = {"k": "true"}
    run = Cell(method="pca", dataset=str(path), label_key="cell_type", seed=0, options=options)
    output = tmp_path / "out"
    row = run_cell(run, output)
    assert row["cell"] == run.key
    assert (row["code"], row["data"]) == (code_digest("pca"), data_digest(str(path)))
    if changed == "code":
        (source / "fedsc" / "new.py").write_text("x = 1\n")
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
