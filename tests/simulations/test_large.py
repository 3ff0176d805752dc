"""Labs whose values stay on disk: a run gives the same bits as in memory."""

import json

import numpy as np
import pytest

from fedsc.config import Config
from fedsc.data import rows
from fedsc.data.expression import Expression, OnDisk
from fedsc.data.preprocess import CellMatrix
from fedsc.data.reading import large
from partitioning import simulation
from partitioning.simulation import simulated_labs


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """Treat every file as large; give the folder of the copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    simulation.forget()
    yield tmp_path / "fedsc" / "simulated"
    simulation.forget()


def labs_of(config):
    return simulated_labs(config.data, config.split, config.run.seed)


def test_a_run_on_files_on_disk_leaves_the_same_bits(tiny, undisturbed, lead, on_disk, monkeypatch):
    read, batches = [], []
    reading, batch = rows.Rows.read, CellMatrix.batch
    monkeypatch.setattr(rows, "BLOCK", 500)
    monkeypatch.setattr(
        rows.Rows, "read", lambda *given: read.append(block := reading(*given)) or block
    )
    monkeypatch.setattr(
        CellMatrix, "batch", lambda self, which: batches.append(self) or batch(self, which)
    )
    left = lead(tiny)
    assert all(isinstance(lab, OnDisk) for lab in labs_of(tiny).labs.values())
    assert left.model == undisturbed.model
    for name in ("kmeans", "pooled", "floor", "questions"):
        assert left.scores[name] == undisturbed.scores[name]
    assert left.scores["graph"]["sizes"] == undisturbed.scores["graph"]["sizes"]

    # Never were all values of a lab in memory, neither as they are nor prepared.
    of_a_lab = min(lab.rows.nnz for lab in labs_of(tiny).labs.values())
    assert 0 < max(block.nnz for block in read) < 0.8 * of_a_lab
    prepared = [cells for cells in batches if cells.on_disk]
    assert prepared
    for cells in prepared:
        assert isinstance(_base(cells.values.data), np.memmap)
        assert isinstance(_base(cells.values.indices), np.memmap)
        assert "_standardised" not in vars(cells)
    values, index = sorted(on_disk.glob("rows-*"), key=lambda file: file.suffix, reverse=True)
    assert (values.suffix, index.suffix) == (".values", ".safetensors")


def _base(array):
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return array


def test_quality_control_of_cells_on_disk_leaves_out_the_same(unlabelled, lead, change, on_disk):
    config = change(unlabelled, method="fedpca", min_genes=42, min_cells_per_gene=3)
    left = lead(config)
    assert 0 < left.scores["quality"]["kept"] < 96
    simulation.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "IN_MEMORY", 2**29)
        in_memory = lead(change(config, run_name="in-memory"))
        assert not any(isinstance(lab, OnDisk) for lab in labs_of(config).labs.values())
    assert left.model == in_memory.model
    assert left.scores["quality"] == in_memory.scores["quality"]


def test_labs_of_one_file_share_one_copy_of_its_values(tiny, change, on_disk):
    labs = labs_of(change(tiny, partition="iid", labs=8)).labs
    assert len({id(lab.rows.file) for lab in labs.values()}) == 1
    assert sum(len(lab.cells) for lab in labs.values()) == 96


def test_copies_of_another_simulation_are_removed(tiny, tiny_set, change, on_disk, tmp_path):
    first = labs_of(tiny)
    other = tmp_path / "other.h5ad"
    other.write_bytes(tiny_set.read_bytes())
    labs_of(change(tiny, dataset=str(other)))
    assert len(list(on_disk.glob("rows-*"))) == 2
    lab = next(iter(first.labs.values()))
    assert lab.rows.read(0, 3).nnz == lab.rows.counts[:3].sum()  # still open
    assert json.dumps(sorted(first.labs)) == json.dumps(sorted(labs_of(tiny).labs))


def test_many_labs_that_are_large_together_stay_on_disk(tiny_set, tmp_path, on_disk, monkeypatch):
    folder = tmp_path / "labs"
    folder.mkdir()
    for lab in "ABC":
        (folder / f"{lab}.h5ad").write_bytes(tiny_set.read_bytes())
    config = Config.of(dataset=str(folder), min_shared_genes=10)
    needed = 8 * labs_of(config).labs["A"].rows.nnz + 4 * 97
    for most, stays in ((3 * needed - 1, OnDisk), (3 * needed, Expression)):
        monkeypatch.setattr(large, "IN_MEMORY", most)
        simulation.forget()
        assert {type(lab) for lab in labs_of(config).labs.values()} == {stays}
