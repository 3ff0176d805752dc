import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from client_app import cache, labs
from client_app.labs import Lab, LabFile, hosted_labs
from deployment.certificates import make_supernode_key
from fedsc.data.expression import OnDisk
from fedsc.data.reading import large, stored
from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError
from fedsc.federated.preprocessing import fit_preprocessing
from protocol.cells import cells_digest
from protocol.identity import is_signed


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 6])
def test_nodes_share_all_labs_without_overlap(tiny, nodes):
    hosted = [
        [lab.name for lab in hosted_labs({"partition-id": i, "num-partitions": nodes}, tiny)]
        for i in range(nodes)
    ]
    every = sorted(name for names in hosted for name in names)
    assert every == ["lab-0", "lab-1", "lab-2", "lab-3"]
    assert hosted[0] == [f"lab-{i}" for i in range(0, 4, nodes)]


def test_a_node_with_a_file_is_one_lab(tiny, tiny_set, tmp_path):
    node = {"lab": "A", "data": str(tiny_set), "state": str(tmp_path / "state")}
    (lab,) = hosted_labs(node, tiny)
    assert (lab.name, len(lab.expression.cells), lab.siblings) == ("A", 96, 0)
    # It takes the run's name from the server, never a path.
    assert lab.folder("run-1", "/etc") == tmp_path / "state" / "run-1"


@pytest.mark.parametrize("name", ["output", "state"])
def test_a_relative_folder_is_refused_and_not_quoted(tiny, tiny_set, name):
    """It would lead elsewhere from wherever the node is started."""
    with pytest.raises(ConfigError, match=f"{name} = 'mine/x': should be an absolute") as caught:
        hosted_labs({"lab": "A", "data": str(tiny_set), name: "mine/x"}, tiny)
    assert caught.value.outside == f"node config {name}: should be an absolute path"


def test_two_labs_with_files_in_one_folder_keep_their_states_apart(tiny, tiny_set):
    folders = {
        hosted_labs({"lab": name, "data": str(tiny_set)}, tiny)[0].folder("run-1", "")
        for name in ("A", "B")
    }
    assert len(folders) == 2
    assert {folder.parents[2] for folder in folders} == {tiny_set.parent}


def test_a_lab_names_its_columns_in_labs_toml_or_in_its_node_config(tiny, tiny_set, tmp_path):
    shutil.copy(tiny_set, tmp_path / "cells.h5ad")
    (tmp_path / "labs.toml").write_text(
        "[A]\nlabel-key = 'donor'\nbatch-key = 'donor'\nmake-unique = true\n[B]\n"
    )
    node = {"data": str(tmp_path / "cells.h5ad")}
    (a,) = hosted_labs({"lab": "A", **node}, tiny)
    assert (a.source.how.label_key, a.batch_key, a.source.how.make_unique) == (
        "donor",
        "donor",
        True,
    )
    own = {"label-key": "cell_type", "batch-key": "cell_type", "make-unique": False}
    (a,) = hosted_labs({"lab": "A", **node, **own}, tiny)
    assert (a.source.how.label_key, a.batch_key, a.source.how.make_unique) == (
        *("cell_type", "cell_type"),
        False,
    )
    (b,) = hosted_labs({"lab": "B", **node}, tiny)
    assert (b.source.how.label_key, b.batch_key, b.source.how.make_unique) == (
        "cell_type",
        "",
        False,
    )
    (tmp_path / "labs.toml").write_text("[A]\nlabel-key = ''\nlayer = ''\n")
    (a,) = hosted_labs({"lab": "A", **node}, tiny.replace(layer="counts"))
    assert a.source.how == ReadAs()  # no cell types, and its values are in X
    (a,) = hosted_labs({"lab": "A", **node, "layer": "raw"}, tiny)
    assert a.source.how == ReadAs("raw")
    (tmp_path / "labs.toml").unlink()
    (a,) = hosted_labs({"lab": "A", **node, "label-key": "", "layer": ""}, tiny)
    assert a.source.how == ReadAs()
    with pytest.raises(ConfigError, match="node config: make-unique = 'true'; known are label-key"):
        hosted_labs({"lab": "A", **node, "make-unique": "true"}, tiny)
    (tmp_path / "labs.toml").write_text("[A]\nlabels = 'donor'\n")
    with pytest.raises(ConfigError, match=r"labs\.toml: A: labels = 'donor'; known are label-key"):
        hosted_labs({"lab": "A", **node}, tiny)


def test_a_lab_signs_its_name_with_the_key_of_its_node_config(tiny, tiny_set, tmp_path):
    private, public = make_supernode_key()
    (tmp_path / "key").write_bytes(private)
    node = {"lab": "A", "data": str(tiny_set), "key": str(tmp_path / "key")}
    (lab,) = hosted_labs(node, tiny)
    assert is_signed(public, lab.signature(7, 9), 7, 9, "A")
    (other,) = hosted_labs({"lab": "A", "data": str(tiny_set)}, tiny)
    assert other.signature(7, 9) == b""


@pytest.mark.parametrize(
    ("key", "words"),
    [("none", "No such file"), ("", "Is a directory"), ("rubbish", "is no EC key in the OpenSSH")],
)
def test_a_key_that_cannot_be_used_is_told_and_not_quoted(tiny, tiny_set, tmp_path, key, words):
    (tmp_path / "rubbish").write_bytes(b"SECRET")
    (lab,) = hosted_labs({"lab": "A", "data": str(tiny_set), "key": f"{tmp_path}/{key}"}, tiny)
    with pytest.raises(ConfigError, match=f"node config key = .*{words}") as told:
        lab.signature(7, 9)
    assert "SECRET" not in str(told.value)


@pytest.mark.parametrize("run", ["../x", "a/b", "", "..", ".hidden", "x" * 101])
def test_a_run_name_cannot_lead_out_of_the_folder(tiny, tiny_set, run):
    (lab,) = hosted_labs({"lab": "A", "data": str(tiny_set)}, tiny)
    with pytest.raises(ConfigError, match="run name"):
        lab.folder(run, "")


@pytest.mark.parametrize("node", [{}, {"lab": "a/b", "data": "x"}, {"data": "x"}])
def test_a_node_without_usable_config_is_told_what_to_give(tiny, node):
    with pytest.raises(ConfigError, match=r"node-config|node config"):
        hosted_labs(node, tiny)


def test_prepared_cells_are_kept_until_the_preprocessing_changes(tiny):
    (lab, *_) = hosted_labs({"partition-id": 0, "num-partitions": 1}, tiny)
    lab = Lab(lab.name, lab.expression, siblings=1, state=Path())
    one = fit_preprocessing([lab.expression], tiny.data)
    first = lab.cells(one, "pooled")
    assert lab.cells(one, "pooled") is first
    other = fit_preprocessing([lab.expression], tiny.data.model_copy(update={"n_genes": 7}))
    assert lab.cells(other, "pooled").n_genes == 7
    vocabulary = np.array(one.vocabulary)
    assert lab.aligned(vocabulary) is lab.aligned(vocabulary.copy())


@pytest.fixture
def file(tiny_set, tmp_path):
    return Path(shutil.copy(tiny_set, tmp_path / "A.h5ad"))


def _node(file):
    return {"lab": "A", "data": str(file), "state": str(file.parent / "state")}


def _another_process():
    """What a process remembers is gone with it: Flower starts one for every message."""
    labs._real_lab.cache_clear()


def test_prepared_cells_survive_the_process_and_the_file_is_not_read_again(tiny, file, monkeypatch):
    (lab,) = hosted_labs(_node(file), tiny)
    preprocessing = fit_preprocessing([lab.expression], tiny.data)
    first = lab.cells(preprocessing, "pooled")

    _another_process()
    monkeypatch.setattr(LabFile, "read", lambda *given: pytest.fail("the file was read again"))
    (lab,) = hosted_labs(_node(file), tiny)
    again = lab.cells(preprocessing, "pooled")
    assert again is not first
    rows = np.arange(96)
    assert again.batch(rows).tobytes() == first.batch(rows).tobytes()
    kept = file.parent / "state" / ".cache"
    assert [path.name for path in kept.iterdir()] == ["cells.safetensors"]


def test_a_large_file_is_copied_once_and_its_cells_are_prepared_to_the_same_bits(
    tiny, file, monkeypatch
):
    (lab,) = hosted_labs(_node(file), tiny)
    preprocessing = fit_preprocessing([lab.expression], tiny.data)
    rows, in_memory = np.arange(96), lab.cells(preprocessing, "pooled")
    shutil.rmtree(file.parent / "state")
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    monkeypatch.setattr(cache, "_STANDARDISED_AT_ONCE", 0)
    for _ in range(2):  # prepared, and mapped by the next process
        _another_process()
        (lab,) = hosted_labs(_node(file), tiny)
        assert isinstance(lab.expression, OnDisk)
        cells = lab.cells(preprocessing, "pooled")
        assert cells.on_disk
        assert cells.batch(rows).tobytes() == in_memory.batch(rows).tobytes()
        assert fit_preprocessing([lab.expression], tiny.data).digest == preprocessing.digest
        monkeypatch.setattr(stored.Compressed, "blocks", lambda self: pytest.fail("read again"))
    kept = sorted(path.suffix for path in (file.parent / "state" / ".cache").glob("[!.]*"))
    assert kept == [".safetensors", ".safetensors", ".values"]


def test_cells_of_a_large_file_are_known_from_others(tiny, file, monkeypatch):
    (lab,) = hosted_labs(_node(file), tiny)
    digest = cells_digest(lab.expression)
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    _another_process()
    (lab,) = hosted_labs(_node(file), tiny)
    assert isinstance(lab.expression, OnDisk)
    assert cells_digest(lab.expression) == digest
    assert cells_digest(lab.expression.subset(np.arange(95))) != digest


@pytest.mark.parametrize("how", ["touched", "other cells", "other scale"])
def test_a_changed_file_or_option_is_prepared_anew(tiny, change, file, how, monkeypatch):
    import anndata

    (lab,) = hosted_labs(_node(file), tiny)
    preprocessing = fit_preprocessing([lab.expression], tiny.data)
    lab.cells(preprocessing, "pooled")

    config = tiny
    if how == "touched":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif how == "other cells":
        anndata.read_h5ad(file)[:40].copy().write_h5ad(file)
    else:
        config = change(tiny, scale="lab")
    read, original = [], LabFile.read
    monkeypatch.setattr(LabFile, "read", lambda *given: read.append(given) or original(*given))
    _another_process()
    (lab,) = hosted_labs(_node(file), config)
    assert lab.cells(preprocessing, config.data.scale).n_cells == (
        40 if how == "other cells" else 96
    )
    assert len(read) == 1


def test_a_10x_folder_is_identified_by_its_files(tmp_path):
    folder = tmp_path / "10x"
    folder.mkdir()
    (folder / "matrix.mtx").write_text("a")
    first = LabFile(folder).identity()
    assert LabFile(folder).identity() == first
    assert LabFile(folder, ReadAs("raw")).identity() != first
    (folder / "matrix.mtx").write_text("ab")
    assert LabFile(folder).identity() != first


def test_a_lab_is_listed_without_reading_its_file(tiny, tmp_path):
    (lab,) = hosted_labs({"lab": "A", "data": str(tmp_path / "none.h5ad")}, tiny)
    assert lab.name == "A"
    assert lab.output is None
    node = {"lab": "A", "data": str(tmp_path / "none.h5ad"), "output": str(tmp_path / "out")}
    (lab,) = hosted_labs(node, tiny)
    assert lab.output == tmp_path / "out"
