import contextlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from client_app import state
from client_app.state import (
    KeptEmbedding,
    load_embedding,
    load_integration,
    load_private,
    save_embedding,
    save_integration,
    save_private,
)
from fedsc.data.coverage import Coverage
from fedsc.data.reading.read import read
from fedsc.errors import DataError, RunError
from fedsc.federated.correction import BatchedCells
from protocol.cells import cells_digest
from simulations.harmony import integrate_here


def _private(value):
    return {"target.encoder.0.weight": np.full((2, 2), value, dtype=np.float32)}


def _value(private):
    return float(private["target.encoder.0.weight"][0, 0]) if private else None


def test_state_of_the_round_before_is_found(tmp_path):
    assert load_private(tmp_path, 1) == {}
    for round_ in (1, 2, 3):
        save_private(round_, {tmp_path: _private(round_)})
    assert _value(load_private(tmp_path, 4)) == 3
    assert _value(load_private(tmp_path, 3)) == 2


def test_a_lab_that_missed_rounds_goes_on_from_its_last(tmp_path):
    save_private(1, {tmp_path: _private(1)})
    assert _value(load_private(tmp_path, 9)) == 1


def test_two_rounds_are_kept_and_later_ones_forgotten(tmp_path):
    for round_ in (1, 2, 3, 4):
        save_private(round_, {tmp_path: _private(round_)})
    save_private(3, {tmp_path: _private(33)})  # round 3 again, after a resume
    assert sorted(p.name for p in tmp_path.iterdir()) == ["private-000003.safetensors"]
    assert _value(load_private(tmp_path, 4)) == 33


def test_methods_without_private_state_write_nothing(tmp_path):
    save_private(1, {tmp_path / "lab": {}})
    assert not (tmp_path / "lab").exists()


@pytest.fixture(params=[True, False], ids=["same process", "another process"])
def forget(request):
    """Let what follows happen in the process that wrote, or in another one."""
    return (lambda: None) if request.param else state._known.clear


def test_labs_of_a_node_share_a_file_and_a_sync(tmp_path, monkeypatch, forget):
    synced, sync = [], os.fsync
    monkeypatch.setattr("os.fsync", lambda file: synced.append(sync(file)))
    labs = {tmp_path / name: _private(i) for i, name in enumerate("abc")}
    save_private(1, labs)
    forget()
    assert len(synced) == 1
    assert len({path.stat().st_ino for path in tmp_path.glob("*/private-*")}) == 1
    assert [_value(load_private(folder, 2)) for folder in labs] == [0, 1, 2]


def test_a_lab_may_move_to_another_node_or_miss_rounds(tmp_path, forget):
    a, b = tmp_path / "a", tmp_path / "b"
    save_private(1, {a: _private(1), b: _private(2)})
    for round_ in (2, 3, 4):  # b is away
        save_private(round_, {a: _private(10 * round_)})
        forget()
    assert sorted(path.name for path in b.iterdir()) == ["private-000001.safetensors"]
    assert _value(load_private(b, 5)) == 2
    assert _value(load_private(a, 5)) == 40
    assert _value(load_private(a, 4)) == 30
    save_private(5, {b: _private(7), a: _private(8)})
    forget()
    assert (_value(load_private(a, 6)), _value(load_private(b, 6))) == (8, 7)


def test_what_is_in_memory_is_not_taken_for_another_file(tmp_path):
    lab, other = tmp_path / "a", tmp_path / "other"
    save_private(1, {lab: _private(1)})
    save_private(1, {other: _private(2)})
    os.replace(other / "private-000001.safetensors", lab / "private-000001.safetensors")
    assert _value(load_private(lab, 2)) == 2


@pytest.mark.parametrize("round_", [2, 3])
def test_a_folder_that_somebody_emptied_is_begun_anew(tmp_path, round_):
    labs = [tmp_path / "a", tmp_path / "b"]
    save_private(1, {lab: _private(1) for lab in labs})
    shutil.rmtree(labs[1])
    assert load_private(labs[1], round_) == {}
    save_private(round_, {lab: _private(round_) for lab in labs})
    assert [_value(load_private(lab, round_ + 1)) for lab in labs] == [round_, round_]


def test_a_process_knows_the_states_of_one_run(tmp_path):
    save_private(1, {tmp_path / "one" / "a": _private(1), tmp_path / "one" / "b": _private(1)})
    save_private(1, {tmp_path / "two" / "a": _private(1)})
    assert [folder.parent.name for folder in state._known] == ["two"]


@pytest.mark.parametrize("stops", ["os.link", "os.replace", "os.fsync"])
def test_a_stop_at_any_instant_leaves_the_round_before(tmp_path, monkeypatch, stops):
    """Of every lab the state of the round before the one that is done again, whatever was kept."""
    labs = [tmp_path / name for name in "abc"]
    for round_ in (1, 2):
        save_private(round_, {folder: _private(round_) for folder in labs})
    call, left = getattr(os, stops.removeprefix("os.")), [0]

    def stop(*given):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return call(*given)

    for at in (1, 2):
        left[0] = at
        monkeypatch.setattr(stops, stop)
        with contextlib.suppress(KeyboardInterrupt):
            save_private(3, {folder: _private(3) for folder in labs})
        monkeypatch.setattr(stops, call)
        state._known.clear()
        assert {_value(load_private(folder, 3)) for folder in labs} == {2}
        assert {_value(load_private(folder, 4)) for folder in labs} <= {2, 3}


def test_without_links_there_are_copies(tmp_path, monkeypatch, forget):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    save_private(1, {tmp_path / "a": _private(1), tmp_path / "b": _private(2)})
    forget()
    assert _value(load_private(tmp_path / "b", 2)) == 2


def test_copies_are_not_read_again_either(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    labs = [tmp_path / name for name in "abc"]
    save_private(1, {lab: _private(i) for i, lab in enumerate(labs)})
    monkeypatch.setattr(state, "read_private", lambda path: pytest.fail(f"{path} was read"))
    assert [_value(load_private(lab, 2)) for lab in labs] == [0, 1, 2]


@pytest.fixture
def cells(tiny_set):
    return read(tiny_set)


def _kept(cells, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(cells.cells), 3)).astype(np.float32)
    return KeptEmbedding(x, rng.integers(0, 2, len(x)), cells_digest(cells), Coverage(2, 4, 0.5))


def test_an_embedding_comes_back_for_the_cells_it_was_made_of(tmp_path, cells):
    kept = _kept(cells)
    save_embedding(tmp_path / "lab", kept)
    back = load_embedding(tmp_path / "lab").of(cells)
    np.testing.assert_array_equal(back.x, kept.x)
    np.testing.assert_array_equal(back.batches, kept.batches)


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells.subset(np.arange(96)[::-1]),
        lambda cells: cells.subset(np.arange(95)),
        lambda cells: replace(cells, cells=np.array([f"other{i}" for i in range(96)])),
        # Names that are row numbers, of a file that was sorted anew:
        lambda cells: replace(cells.subset(np.arange(96)[::-1]), cells=cells.cells),
    ],
    ids=["other order", "a cell less", "other names", "other cells of the same names"],
)
def test_it_is_not_taken_for_that_of_other_cells(tmp_path, cells, change):
    save_embedding(tmp_path, _kept(cells))
    with pytest.raises(DataError, match="the lab's file has changed since"):
        load_embedding(tmp_path).of(change(cells))


def test_no_or_a_damaged_embedding_is_said(tmp_path, cells):
    with pytest.raises(RunError, match=r"embedding\.safetensors cannot be read"):
        load_embedding(tmp_path)
    save_embedding(tmp_path, _kept(cells))
    path = tmp_path / "embedding.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"embedding\.safetensors cannot be read"):
        load_embedding(tmp_path)


def test_an_integration_comes_back_and_goes_with_the_embedding_it_was_made_of(tmp_path, cells):
    save_embedding(tmp_path, _kept(cells))
    assert load_integration(tmp_path) is None
    kept = load_embedding(tmp_path)
    batched = BatchedCells(kept.x, kept.batches)
    _, (state,) = integrate_here([batched], seed=0)
    save_integration(tmp_path, state)
    back = load_integration(tmp_path)
    assert back.arrays().keys() == state.arrays().keys()
    for name, array in back.arrays().items():
        np.testing.assert_array_equal(array, state.arrays()[name], err_msg=name)
    save_embedding(tmp_path, _kept(cells, seed=1))
    assert load_integration(tmp_path) is None
