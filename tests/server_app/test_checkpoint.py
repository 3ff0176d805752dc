import errno
import logging
import os

import numpy as np
import pytest

from fedsc import tensors
from fedsc.errors import RunError
from server_app.checkpoint import ServerState, load_checkpoint, previous, save_checkpoint


def _state(round_=3):
    rng = np.random.default_rng(round_)

    def weights():
        return {"encoder.0.weight": rng.normal(size=(3, 2)).astype(np.float32)}

    return ServerState(round_, weights(), {"a": weights(), "b": weights()}, {"a": 0.1 + 0.2})


def _same(one, other):
    assert (one.round, one.lambdas) == (other.round, other.lambdas)
    for ours, theirs in zip(_weights(one), _weights(other), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def _weights(state):
    return (state.weights, *state.uploads.values())


@pytest.fixture
def path(tmp_path):
    """Two rounds saved: the last, and the one before."""
    path = tmp_path / "checkpoint.safetensors"
    for round_ in (2, 3):
        save_checkpoint(path, _state(round_), "print")
    return path


def test_a_state_comes_back_bit_for_bit_and_the_one_before_is_kept(path):
    _same(load_checkpoint(path, "print"), _state(3))
    _same(load_checkpoint(previous(path), "print"), _state(2))
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "checkpoint.previous.safetensors",
        "checkpoint.safetensors",
    ]
    save_checkpoint(path, _state(4), "print")
    assert load_checkpoint(previous(path), "print").round == 3


@pytest.mark.parametrize("lab", ["a b", "lab-1", "B.2_c"])
def test_uploads_keep_their_labs(tmp_path, lab):
    path, state = tmp_path / "c", _state()
    state.uploads = {lab: state.weights}
    save_checkpoint(path, state, "")
    assert load_checkpoint(path, "").uploads[lab].keys() == state.weights.keys()


def test_nothing_written_yet(tmp_path):
    assert load_checkpoint(tmp_path / "none", "print") is None


def test_other_options_are_refused(path):
    with pytest.raises(RunError, match=r"other options.*config\.json"):
        load_checkpoint(path, "other")


def test_any_flipped_bit_falls_back_to_the_round_before(path):
    rng, whole = np.random.default_rng(0), path.read_bytes()
    aside = path.with_name("checkpoint.damaged.safetensors")
    for bit in rng.choice(8 * len(whole), size=300, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert load_checkpoint(path, "print").round == 2, f"bit {bit} was not found"
        assert aside.read_bytes() == damaged
        assert not path.exists()


def test_a_fall_back_is_said_in_the_log_and_the_next_round_is_saved_as_ever(path, caplog):
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, logger="flwr"):
        state = load_checkpoint(path, "print")
    _same(state, _state(2))
    assert "checkpoint.safetensors is damaged" in caplog.text
    assert "going on from the checkpoint before it, of round 2" in caplog.text
    save_checkpoint(path, _state(3), "print")
    assert load_checkpoint(path, "print").round == 3
    # The damaged file did not take the place of the older whole one.
    assert load_checkpoint(previous(path), "print").round == 2


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_two_damaged_files_are_refused(path, content):
    for file in (path, previous(path)):
        file.write_bytes(content)
    with pytest.raises(RunError, match="holds no checkpoint that can be read"):
        load_checkpoint(path, "print")


def test_a_crash_between_the_two_files_leaves_the_older(path):
    path.unlink()
    assert load_checkpoint(path, "print").round == 2


GOOD = {"round": 1, "lambdas": {}, "fingerprint": "print"}
W = {"global/w": np.ones((2, 2), np.float32), "lab a/w": np.ones((2, 2), np.float32)}


@pytest.mark.parametrize(
    ("named", "about", "words"),
    [
        (W, {}, "not a checkpoint of FedSC"),
        (W, GOOD | {"fingerprint": 3}, "not a checkpoint of FedSC"),
        (W, GOOD | {"round": -1}, "round -1"),
        (W, GOOD | {"round": True}, "round True"),
        (W, GOOD | {"round": "3"}, "round '3'"),
        (W, GOOD | {"round": 1.5}, "round 1.5"),
        (W, GOOD | {"lambdas": [1]}, "lambdas"),
        (W, GOOD | {"lambdas": {"a": "x"}}, "lambdas"),
        (W, GOOD | {"lambdas": {"a": float("nan")}}, "lambdas"),
        (W, {k: v for k, v in GOOD.items() if k != "lambdas"}, "lambdas None"),
        ({"lab a/w": W["lab a/w"]}, GOOD, "no global weights"),
        ({}, GOOD, "no global weights"),
        (W | {"w": np.ones(1, np.float32)}, GOOD, "a tensor of nobody, 'w'"),
        (W | {"lab a/v": np.ones(1, np.float32)}, GOOD, r"lab a: other tensors .*\(v\)"),
        (W | {"lab a/w": np.ones((2, 3), np.float32)}, GOOD, r"lab a: w is float32 \(2, 3\)"),
        (W | {"lab a/w": np.ones((2, 2))}, GOOD, "lab a: w is float64"),
        (W | {"global/w": np.full((2, 2), np.nan, np.float32)}, GOOD, "global: w is not finite"),
    ],
)
def test_odd_checkpoints_end_in_a_sentence(tmp_path, named, about, words):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(tensors.pack(named, about))
    with pytest.raises(RunError, match=words):
        load_checkpoint(path, "print")


def test_weights_of_another_model_are_refused(path):
    like = {"encoder.0.weight": np.ones((4, 2), np.float32)}
    with pytest.raises(RunError, match=r"global: encoder\.0\.weight is float32 \(3, 2\)"):
        load_checkpoint(path, "print", like)
    assert load_checkpoint(path, "print", _state().weights).round == 3


def test_a_failed_write_leaves_the_old_checkpoint(path, monkeypatch):
    real, full = os.replace, OSError(errno.ENOSPC, "no space")

    def fail(source, target):
        if target == path:
            raise full
        real(source, target)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint\.safetensors: No space left"):
        save_checkpoint(path, _state(4), "print")
    assert load_checkpoint(path, "print").round == 3
    assert len(list(path.parent.iterdir())) == 2
