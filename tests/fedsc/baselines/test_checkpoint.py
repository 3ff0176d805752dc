import numpy as np
import pytest
import torch

from fedsc import tensors
from fedsc.baselines.checkpoint import (
    Saved,
    fingerprint,
    give_optimizer_state,
    load,
    optimizer_state,
    save,
)
from fedsc.baselines.contrastive_sc import PRESETS
from fedsc.baselines.inputs import prepare
from fedsc.errors import RunError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "t.safetensors"


@pytest.fixture
def saved():
    weights = {"w": torch.ones(2, 3).T, "n": torch.tensor([7])}
    return Saved(weights, {"0/step": torch.tensor(3.0)}, [1.5, 1 / 3], converged=True)


def test_what_was_saved_comes_back_to_the_bit(path, saved):
    assert load(path, "x") is None
    save(path, saved, "x")
    found = load(path, "x")
    for part in ("weights", "optimizer"):
        expected, there = getattr(saved, part), getattr(found, part)
        assert list(there) == sorted(expected)
        assert all(torch.equal(there[name], expected[name]) for name in expected)
        assert all(there[name].dtype == expected[name].dtype for name in expected)
    assert (found.losses, found.converged) == ([1.5, 1 / 3], True)
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]


def test_the_same_state_gives_the_same_bytes(path, saved):
    save(path, saved, "x")
    before = path.read_bytes()
    save(path, saved, "x")
    assert path.read_bytes() == before


def test_a_checkpoint_of_something_else_is_refused(path, saved):
    save(path, saved, "one")
    with pytest.raises(RunError, match=r"t\.safetensors was written for other data or options"):
        load(path, "two")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        tensors.pack({"w": np.ones(3)}),
        tensors.pack({"weights/w": np.ones(3)}, {"fingerprint": "x"}),
        tensors.pack({"other/w": np.ones(3)}, {"fingerprint": "x", "losses": []}),
    ],
    ids=["empty", "nonsense", "no checkpoint", "half a checkpoint", "another part"],
)
def test_a_broken_or_foreign_file_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"t\.safetensors is not a readable checkpoint .* delete it"):
        load(path, "x")


def test_a_file_cut_short_is_named(path, saved):
    save(path, saved, "x")
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="not a readable checkpoint"):
            load(path, "x")


def test_a_folder_in_its_place_is_named(path):
    path.mkdir(parents=True)
    with pytest.raises(RunError, match="not a readable checkpoint"):
        load(path, "x")


def test_what_cannot_be_written_says_why(tmp_path, saved):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="cannot make the folder"):
        save(tmp_path / "file" / "t.safetensors", saved, "x")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.Adadelta(p, lr=1.0),
    ],
    ids=["adam", "adamw", "adadelta"],
)
def test_an_optimiser_goes_on_from_its_flat_state(make):
    one, two = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    first = make([one])

    def step(optimizer, weight):
        optimizer.zero_grad()
        (weight - torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    step(first, one)
    two.data.copy_(one)
    second = make([two])
    give_optimizer_state(second, {k: v.clone() for k, v in optimizer_state(first).items()})
    for _ in range(2):
        step(first, one)
        step(second, two)
    assert torch.equal(one, two)


def test_a_fingerprint_tells_cells_preset_and_choices_apart(cells):
    one, _ = prepare(cells(), 0, 10.0)
    other, _ = prepare(cells(seed=1), 0, 10.0)
    paper, steady = PRESETS["paper"], PRESETS["steady"]
    prints = [
        fingerprint(one, paper, 0),
        fingerprint(other, paper, 0),
        fingerprint(one, steady, 0),
        fingerprint(one, paper, 1),
        fingerprint(one, paper, 0, None),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(prepare(cells(), 0, 10.0)[0], paper, 0) == prints[0]
