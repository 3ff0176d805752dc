import numpy as np

from client_app.state import load_embedding, load_private, save_embedding, save_private


def _private(value):
    return {"target.encoder.0.weight": np.full((2, 2), value, dtype=np.float32)}


def _value(private):
    return float(private["target.encoder.0.weight"][0, 0]) if private else None


def test_state_of_the_round_before_is_found(tmp_path):
    assert load_private(tmp_path, 1) == {}
    for round_ in (1, 2, 3):
        save_private(tmp_path, round_, _private(round_))
    assert _value(load_private(tmp_path, 4)) == 3
    assert _value(load_private(tmp_path, 3)) == 2


def test_a_lab_that_missed_rounds_goes_on_from_its_last(tmp_path):
    save_private(tmp_path, 1, _private(1))
    assert _value(load_private(tmp_path, 9)) == 1


def test_two_rounds_are_kept_and_later_ones_forgotten(tmp_path):
    for round_ in (1, 2, 3, 4):
        save_private(tmp_path, round_, _private(round_))
    save_private(tmp_path, 3, _private(33))  # round 3 again, after a resume
    assert sorted(p.name for p in tmp_path.iterdir()) == ["private-000003.safetensors"]
    assert _value(load_private(tmp_path, 4)) == 33


def test_methods_without_private_state_write_nothing(tmp_path):
    save_private(tmp_path / "lab", 1, {})
    assert not (tmp_path / "lab").exists()


def test_embedding_comes_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    save_embedding(tmp_path / "lab", x)
    np.testing.assert_array_equal(load_embedding(tmp_path / "lab"), x)
