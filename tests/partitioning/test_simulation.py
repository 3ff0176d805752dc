"""The labs of a simulation: which cells of a set they hold."""

import shutil

import anndata
import h5py
import numpy as np
import pytest
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from fedsc.config import Config
from fedsc.data import registry
from fedsc.errors import ConfigError
from partitioning.simulation import lab_files, simulated_labs, with_own_k


def labs_of(**options):
    config = Config.of(**options)
    return simulated_labs(config.data, config.split, config.run.seed)


def test_a_persons_own_file_loses_no_cell_unless_asked(tiny_set):
    own = {"dataset": str(tiny_set), "label_key": "cell_type", "labs": 2, "subtypes_per_lab": 1}
    everything = labs_of(**own)
    assert everything.left_out is None
    assert sum(len(lab.cells) for lab in everything.labs.values()) == 96
    dropped = labs_of(**own, cover="drop")
    assert len(dropped.left_out.cells) == 48


def test_a_known_set_is_split_as_the_paper_does(tiny_set, monkeypatch):
    monkeypatch.setenv("FEDSC_DATA", str(tiny_set.parent))
    known = labs_of(dataset="tiny", label_key="cell_type", labs=2, subtypes_per_lab=1)
    assert registry.resolve("tiny").known
    assert len(known.left_out.cells) == 48


@pytest.mark.parametrize("name", ["subtypes-per-lab", "subtypes_per_lab"])
def test_a_number_of_types_that_is_given_goes_before_the_sets_own(name):
    known = registry.resolve("10x_pbmc")
    assert with_own_k({name: 3}, known) == {name: 3}
    assert with_own_k({"labs": 4}, known) == {"labs": 4, "subtypes-per-lab": 2}
    assert with_own_k({"labs": 4}, registry.Source("mine", known.path)) == {"labs": 4}


def test_files_of_a_folder_may_be_called_anything(tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    for name, rows in (("lab c", slice(0, 50)), ("Charité (v2)", slice(50, 96))):
        cells[rows].write_h5ad(tmp_path / f"{name}.h5ad")
    found = labs_of(dataset=str(tmp_path), label_key="cell_type")
    assert list(found.labs) == ["Charite-v2", "lab-c"]
    np.testing.assert_array_equal(found.labs["lab-c"].cells, cells.obs_names[:50])


def test_files_that_would_be_one_lab_are_refused(tiny_set, tmp_path):
    for name in ("lab c", "lab-c"):
        (tmp_path / f"{name}.h5ad").symlink_to(tiny_set)
    with pytest.raises(ConfigError, match="would both be named 'lab-c'"):
        labs_of(dataset=str(tmp_path))
    (tmp_path / "lab c.h5ad").rename(tmp_path / "lab-c.loom")
    with pytest.raises(ConfigError, match=r"'lab-c.h5ad' and 'lab-c.loom' would be one lab"):
        labs_of(dataset=str(tmp_path))


def test_labs_of_a_folder_have_files_of_any_format_that_holds_cells_and_no_other(
    tiny_set, tmp_path, change, tiny, lead
):
    """A table may be anything, so it is no lab; a person is told."""
    cells = anndata.read_h5ad(tiny_set)
    dense = cells.X.toarray()
    cells[:30].copy().write_h5ad(tmp_path / "A.h5ad")
    with h5py.File(tmp_path / "B.loom", "w") as file:
        file["matrix"] = dense[30:60].T
        file["row_attrs/Gene"] = np.array(cells.var_names, "S")
        file["col_attrs/CellID"] = np.array(cells.obs_names[30:60], "S")
    tenx = tmp_path / "C.1"
    tenx.mkdir()
    mmwrite(tenx / "matrix.mtx", csr_matrix(dense[60:].astype(int).T))
    (tenx / "barcodes.tsv").write_text("".join(f"{name}\n" for name in cells.obs_names[60:]))
    (tenx / "genes.tsv").write_text("".join(f"ENS{n}\t{n}\n" for n in cells.var_names))
    (tmp_path / "D.csv").write_text("patient,age\n1,50\n")
    (tmp_path / "E.rds").write_bytes(b"")
    (tmp_path / "README").write_text("")
    found = labs_of(dataset=str(tmp_path))
    assert {lab: len(own.cells) for lab, own in found.labs.items()} == {"A": 30, "B": 30, "C.1": 36}
    left = lead(change(tiny, dataset=str(tmp_path), method="fedpca", label_key="", files=True))
    (warning,) = left.scores["warnings"]
    assert warning.startswith("no lab, so not read: D.csv, E.rds; a lab is an .h5ad, .h5 or .loom")
    assert left.log.index(warning) < left.log.index("phase: statistics")
    copy = anndata.read_h5ad(left.folder / "labs" / "C.1.h5ad")
    assert list(copy.obs_names) == list(cells.obs_names[60:])
    assert "fedsc_cluster" in copy.obs


def test_a_folder_of_more_files_than_labs_are_allowed_is_refused(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr("partitioning.simulation.MOST_LABS", 2)
    for name in "ABC":
        shutil.copy(tiny_set, tmp_path / f"{name}.h5ad")
    with pytest.raises(ConfigError, match=r"holds 3 files of labs, allowed are 2 labs"):
        lab_files(tmp_path)


def test_a_file_that_has_changed_is_read_again(tiny_set, tmp_path):
    path, cells = tmp_path / "cells.h5ad", anndata.read_h5ad(tiny_set)
    cells.write_h5ad(path)
    options = {"dataset": str(path), "partition": "iid", "labs": 1}
    first = labs_of(**options)
    assert labs_of(**options) is first
    cells[:40].write_h5ad(path)
    assert len(labs_of(**options).labs["lab-0"].cells) == 40


def test_other_files_of_a_folder_of_labs_do_not_count(tiny_set, tmp_path):
    """A run's folder may be made there, and some other file may come to nothing."""
    (tmp_path / "A.h5ad").symlink_to(tiny_set)
    options = {"dataset": str(tmp_path), "label_key": "cell_type"}
    first = labs_of(**options)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "B.h5ad").write_bytes(b"a result")
    (tmp_path / "notes").symlink_to(tmp_path / "nowhere")
    assert labs_of(**options) is first
    (tmp_path / "labs.toml").write_text('[A]\nlabel-key = "donor"\n')
    assert labs_of(**options).labs["A"].label_key == "donor"


def test_a_10x_folder_is_one_set_of_cells(tmp_path):
    """As ``fedsc check`` takes it."""
    mmwrite(tmp_path / "matrix.mtx", csr_matrix([[1, 0, 2, 1], [0, 3, 1, 4], [5, 1, 0, 1]]))
    (tmp_path / "barcodes.tsv").write_text("a\nb\nc\nd\n")
    (tmp_path / "genes.tsv").write_text("ENSG1\tCD3E\nENSG2\tCD4\nENSG3\tLYZ\n")
    options = {"dataset": str(tmp_path), "labs": 2}
    split = labs_of(**options, partition="iid")
    assert sorted(name for lab in split.labs.values() for name in lab.cells) == list("abcd")
    with pytest.raises(ConfigError, match="partition = 'iid' needs none"):
        labs_of(**options)


def test_a_folder_says_of_each_lab_how_it_is_read(tiny_set, tmp_path, lead, change, tiny):
    """Columns and names of its own, as a real lab has them in its node config."""
    cells = anndata.read_h5ad(tiny_set)
    cells[:50].copy().write_h5ad(tmp_path / "A.h5ad")
    other = cells[50:].copy()
    other.layers["counts"] = other.X.copy()
    other.X = other.X.log1p()
    other.obs["chip"] = other.obs["donor"]
    other.obs = other.obs.rename(columns={"cell_type": "annotation"})
    other.var["symbol"] = other.var_names
    other.var_names = [f"ENSG{i:011d}" for i in range(60)]
    other.write_h5ad(tmp_path / "B.h5ad")
    (tmp_path / "labs.toml").write_text(
        '[B]\nlabel-key = "annotation"\nlayer = "counts"\nsymbols = "symbol"\nbatch-key = "chip"\n'
    )
    config = change(tiny, dataset=str(tmp_path), method="fedpca", files=True)
    simulation = simulated_labs(config.data, config.split, 0)
    assert simulation.batch_keys == {"B": "chip"}
    b = simulation.labs["B"]
    assert (b.kind, b.label_key, b.genes[0]) == ("counts", "annotation", "TP0")
    copy = anndata.read_h5ad(lead(config).folder / "labs" / "B.h5ad")
    assert list(copy.var_names) == list(other.var_names)
    assert set(copy.uns["rank_genes_groups"]["names"]["0"]) <= set(other.var_names)
