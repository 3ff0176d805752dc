import numpy as np
import pytest

from client_app.state import KeptEmbedding, save_embedding, save_integration
from client_app.subjects import embedding_of
from fedsc.data.coverage import Coverage
from fedsc.errors import RunError
from fedsc.federated.correction import BatchedCells
from fedsc.federated.harmony_lab import answer
from simulations.harmony import integrate_here


@pytest.fixture
def cells():
    x = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    return BatchedCells(x, np.repeat([0, 1], 40))


@pytest.fixture
def folder(cells, tmp_path):
    save_embedding(tmp_path, KeptEmbedding(cells.x, cells.batches, "digest", Coverage(1, 1, 1.0)))
    return tmp_path


def test_an_embedding_is_given_as_it_was_or_after_all_steps(cells, folder):
    harmony, (state,) = integrate_here([cells], 0)
    save_integration(folder, state)
    np.testing.assert_array_equal(embedding_of(folder, ""), cells.x)
    after = embedding_of(folder, harmony.name)
    np.testing.assert_array_equal(after, state.corrected)
    assert not np.array_equal(after, cells.x)


def test_a_lab_that_missed_steps_says_so_and_gives_nothing(cells, folder):
    """It was away for the last steps: what it has is corrected in part."""
    harmony, _ = integrate_here([cells], 0)
    with pytest.raises(RunError, match="was not there for all steps"):
        embedding_of(folder, harmony.name)
    state = None
    for question in harmony.questions[:-1]:
        _, state = answer(cells, state, question)
        save_integration(folder, state)
    with pytest.raises(RunError, match="was not there for all steps"):
        embedding_of(folder, harmony.name)


def test_a_lab_that_took_all_steps_of_another_integration_gives_nothing(cells, folder, monkeypatch):
    """It was left out after it, and the others began anew without it: as many steps."""
    monkeypatch.setattr("fedsc.federated.harmony.ROUNDS", 1)
    other = BatchedCells(cells.x[::2] + 1, cells.batches[::2])
    with_it, (state, _) = integrate_here([cells, other], 0)
    without, _ = integrate_here([other], 0)
    assert len(with_it.questions) == len(without.questions)
    save_integration(folder, state)
    np.testing.assert_array_equal(embedding_of(folder, with_it.name), state.corrected)
    with pytest.raises(RunError, match="was not there for all steps"):
        embedding_of(folder, without.name)
