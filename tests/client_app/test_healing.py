"""A lab's private state that is damaged does not end the lab's part in a run."""

import numpy as np
import pytest

from client_app.state import load_private, save_private


def _private(value):
    return {"target.encoder.0.weight": np.full((2, 2), value, dtype=np.float32)}


@pytest.fixture
def folder(tmp_path):
    for round_ in (1, 2):
        save_private(round_, {tmp_path: _private(round_)})
    return tmp_path


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 20, -1, -9])
def test_a_flipped_bit_is_found_and_the_round_before_is_taken(folder, at, caplog):
    _flip(folder / "private-000002.safetensors", at)
    np.testing.assert_equal(load_private(folder, 3), _private(1))
    assert "private-000002.safetensors is left out" in caplog.text


def test_a_state_that_is_not_finite_is_left_out(folder, caplog):
    save_private(3, {folder: _private(np.nan)})
    np.testing.assert_equal(load_private(folder, 4), _private(2))
    assert "is not finite" in caplog.text


def test_with_no_whole_state_the_lab_starts_anew_and_says_so(folder, caplog):
    for path in folder.iterdir():
        path.write_bytes(b"rubbish")
    assert load_private(folder, 3) == {}
    assert "starts anew" in caplog.text
