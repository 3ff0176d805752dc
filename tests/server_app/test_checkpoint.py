import errno

import numpy as np
import pytest

from fedsc.errors import RunError
from server_app.checkpoint import ServerState, load_checkpoint, save_checkpoint


def _state(round_=3):
    rng = np.random.default_rng(round_)

    def weights():
        return {"encoder.0.weight": rng.normal(size=(3, 2)).astype(np.float32)}

    return ServerState(round_, weights(), {"a": weights(), "b": weights()}, {"a": 0.1 + 0.2})


def test_a_state_comes_back_bit_for_bit(tmp_path):
    path, state = tmp_path / "checkpoint.safetensors", _state()
    save_checkpoint(path, state, "print")
    back = load_checkpoint(path, "print")
    assert (back.round, back.lambdas) == (3, state.lambdas)
    assert back.weights["encoder.0.weight"].tobytes() == state.weights["encoder.0.weight"].tobytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("lab", ["a b", "lab-1", "B.2_c"])
def test_uploads_keep_their_labs(tmp_path, lab):
    path, state = tmp_path / "c", _state()
    state.uploads = {lab: state.weights}
    save_checkpoint(path, state, "")
    assert load_checkpoint(path, "").uploads[lab].keys() == state.weights.keys()


def test_nothing_written_yet(tmp_path):
    assert load_checkpoint(tmp_path / "none", "print") is None


def test_other_options_are_refused(tmp_path):
    save_checkpoint(tmp_path / "c", _state(), "print")
    with pytest.raises(RunError, match=r"other options.*config\.json"):
        load_checkpoint(tmp_path / "c", "other")


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(RunError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c", "print")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, _state(1), "print")
    full = OSError(errno.ENOSPC, "no space")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(RunError, match=r"cannot write .*c\.safetensors: No space left"):
        save_checkpoint(path, _state(2), "print")
    assert load_checkpoint(path, "print").round == 1
    assert list(tmp_path.iterdir()) == [path]
