import dataclasses

import numpy as np
import pytest

from client_app.cache import load_cells, preparation_key, save_cells
from fedsc.data.preprocess import transform
from fedsc.data.reading.read import read
from fedsc.federated.preprocessing import fit_preprocessing


@pytest.fixture(scope="module")
def expression(tiny_set):
    return read(tiny_set)


@pytest.fixture
def preprocessing(expression, tiny):
    return fit_preprocessing([expression], tiny.data)


@pytest.fixture
def cells(expression, preprocessing):
    return transform(expression, preprocessing, scale="lab")


def test_cells_come_back_bit_for_bit(cells, tmp_path):
    path = tmp_path / "new" / "cells.safetensors"
    save_cells(path, "key", cells)
    back = load_cells(path, "key")
    rows = np.array([5, 0, 5, 95])
    assert back.batch(rows).tobytes() == cells.batch(rows).tobytes()
    assert (back.n_cells, back.n_genes, back.max_value) == (96, 30, cells.max_value)
    np.testing.assert_array_equal(back.measured, cells.measured)
    assert list(path.parent.iterdir()) == [path]


def test_cells_kept_under_another_key_are_not_used(cells, tmp_path):
    path = tmp_path / "cells.safetensors"
    assert load_cells(path, "key") is None
    save_cells(path, "key", cells)
    assert load_cells(path, "other") is None
    save_cells(path, "other", cells)
    assert load_cells(path, "key") is None


def test_a_key_depends_on_everything_that_decides_the_cells(preprocessing):
    changes = {
        "mean": preprocessing.mean + 1e-12,
        "std": preprocessing.std * 2,
        "genes": preprocessing.genes[::-1],
        "vocabulary": (*preprocessing.vocabulary, "TP99"),
        "target_sum": preprocessing.target_sum + 1,
        "max_value": np.inf,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(preprocessing)}
    others = [dataclasses.replace(preprocessing, **{name: v}) for name, v in changes.items()]
    keys = {preparation_key(p, "pooled") for p in [preprocessing, *others]}
    keys.add(preparation_key(preprocessing, "lab"))
    assert len(keys) == len(changes) + 2
    assert preparation_key(dataclasses.replace(preprocessing), "pooled") in keys


@pytest.mark.parametrize("content", [b"", b"rubbish" * 99, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_not_used(tmp_path, content, caplog):
    path = tmp_path / "cells.safetensors"
    path.write_bytes(content)
    with caplog.at_level("WARNING", logger="flwr"):
        assert load_cells(path, "key") is None
    assert "cells.safetensors is damaged" in caplog.text


def _spoiled(cells, how):
    values = cells.values.copy()
    if how == "column out of range":
        values.indices[0] = 1000
    elif how == "rows that overlap":
        values.indptr[1] = values.indptr[-1] + 5
    elif how == "nan":
        values.data[0] = np.nan
    elif how == "no spread":
        return dataclasses.replace(cells, std=np.zeros_like(cells.std))
    elif how == "other genes":
        return dataclasses.replace(cells, mean=cells.mean[:-1])
    return dataclasses.replace(cells, values=values)


@pytest.mark.parametrize(
    "how", ["column out of range", "rows that overlap", "nan", "no spread", "other genes"]
)
def test_what_is_no_matrix_is_not_trained_on(cells, tmp_path, how):
    path = tmp_path / "cells.safetensors"
    save_cells(path, "key", _spoiled(cells, how))
    assert load_cells(path, "key") is None


def test_a_full_disk_costs_the_cache_not_the_round(cells, tmp_path, monkeypatch, caplog):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(full))
    with caplog.at_level("WARNING", logger="flwr"):
        save_cells(tmp_path / "cells.safetensors", "key", cells)
    assert "No space left" in caplog.text
    assert not list(tmp_path.iterdir())
