from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc import tensors
from fedsc.data.groups import MOST_BATCHES
from fedsc.errors import DataError, RunError
from fedsc.federated.correction import BatchedCells, correct
from fedsc.federated.harmony import (
    CLUSTER_STEPS,
    HARMONY,
    ROUNDS,
    TOLERANCE,
    Harmony,
    learn_harmony,
    learn_start,
    load_harmony,
)
from fedsc.federated.harmony_lab import HarmonyState, answer, fit_later
from fedsc.federated.micro import unit
from fedsc.federated.query import Question, add
from simulations.harmony import integrate_here

MODEL = SimpleNamespace(dimensions=6, digest="0123")


def techniques(seed=0, cells=450, d=6, types=4, batches=3, effect=2.0):
    """Blobs of types, every batch moved by its own vector, and types not equally common in all."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(types, d)) * 4
    shift = rng.normal(size=(batches, d)) * effect
    batch = rng.integers(0, batches, cells)
    odds = rng.dirichlet(np.full(types, 3.0), batches)
    kind = np.array([rng.choice(types, p=odds[b]) for b in batch])
    x = centres[kind] + shift[batch] + rng.normal(size=(cells, d))
    return x - x.mean(axis=0), batch, kind


def one_batch(x):
    return BatchedCells(x, np.zeros(len(x), dtype=np.int64))


def labs_of(x, batch):
    return [one_batch(x[batch == b]) for b in range(batch.max() + 1)]


def pooled(states, batch):
    x = np.empty((len(batch), states[0].corrected.shape[1]), dtype=states[0].corrected.dtype)
    for b, state in enumerate(states):
        x[batch == b] = state.corrected
    return x


def reference(x, batch, y):
    """Harmony on pooled cells: batches as one-hot columns, every ridge regression solved whole."""
    n, k = len(x), len(y)
    onehot = (batch[:, None] == np.arange(batch.max() + 1)).astype(float)
    design = np.hstack([np.ones((n, 1)), onehot])
    share = onehot.mean(axis=0)
    z, a, r, corrected = unit(x), np.zeros((onehot.shape[1], k)), None, x
    for _ in range(ROUNDS):
        for i in range(CLUSTER_STEPS):
            if r is not None:
                if i > 0:
                    y = unit(r.T @ z)
                observed, expected = onehot.T @ r, np.outer(share, r.sum(axis=0))
                a = 0.5 * a + 0.5 * 2.0 * np.log(expected / (observed + expected))
            far = np.square(z[:, None, :] - y).sum(axis=2)
            r = np.exp(-far / 0.1 + onehot @ a)
            r /= r.sum(axis=1, keepdims=True)
        before, corrected = corrected, x.copy()
        for j in range(k):
            ridge = np.diag([0, *(0.2 * share * r[:, j].sum())])
            weighted = design * r[:, [j]]
            effect = np.linalg.solve(design.T @ weighted + ridge, weighted.T @ x)
            corrected -= weighted[:, 1:] @ effect[1:]
        z = unit(corrected)
        y = unit(r.T @ z)
        if np.square(corrected - before).sum() / np.square(corrected).sum() < TOLERANCE:
            break
    return corrected


@pytest.mark.parametrize("seed", range(4))
def test_equals_harmony_on_the_pool(seed):
    x, batch, _ = techniques(seed)
    harmony, states = integrate_here(labs_of(x, batch), seed)
    start = harmony.questions[0].arrays["centres"]
    np.testing.assert_allclose(pooled(states, batch), reference(x, batch, start), atol=1e-9)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(3, 60), st.booleans())
@settings(max_examples=20)
def test_equals_harmony_on_pools_of_any_size(seed, batches, cells, single):
    x, batch, _ = techniques(seed, cells=cells, batches=batches)
    if single:
        batch[0] = batches  # a batch of one cell
    batch = np.unique(batch, return_inverse=True)[1]
    harmony, states = integrate_here(labs_of(x, batch), seed)
    start = harmony.questions[0].arrays["centres"]
    np.testing.assert_allclose(pooled(states, batch), reference(x, batch, start), atol=1e-8)


def test_agrees_with_harmonypy():
    x, batch, _ = techniques(3, cells=900, d=20, types=8)
    assert correlation(x, by_harmonypy(x, batch)) < 0.98
    _, states = integrate_here(labs_of(x, batch), 0)
    assert correlation(pooled(states, batch), by_harmonypy(x, batch)) > 0.99


@pytest.mark.parametrize(
    ("name", "key"), [("pbmc_3techs_1200", "batch"), ("kang_ifn_pbmc_1556", "condition")]
)
def test_agrees_with_harmonypy_on_real_techniques(real_data, name, key):
    x, batch = components(real_data(name), key)
    _, states = integrate_here(labs_of(x, batch), 0)
    theirs = by_harmonypy(x, batch)
    assert correlation(x, theirs) < 0.97
    assert correlation(pooled(states, batch), theirs) > 0.98


def by_harmonypy(x, batch):
    harmonypy = pytest.importorskip("harmonypy")
    found = harmonypy.run_harmony(x, {"batch": batch}, ["batch"], ncores=1, verbose=False)
    return found.Z_corr


def correlation(a, b):
    return np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(min(20, a.shape[1]))])


def components(path, key):
    """Principal components of log-normalised, standardised genes."""
    import anndata

    cells = anndata.read_h5ad(path)
    counts = cells.X.toarray().astype(np.float64)
    x = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    x = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12)).clip(-10, 10)
    _, axes = np.linalg.eigh(x.T @ x)
    return x @ axes[:, :-51:-1], np.unique(cells.obs[key].astype(str), return_inverse=True)[1]


def test_types_stay_and_techniques_meet():
    x, batch, kind = techniques(1, cells=900, d=20, effect=1.0)
    _, states = integrate_here(labs_of(x, batch), 0)
    corrected = pooled(states, batch)

    def spread(x, own):
        return np.var([x[own & (batch == b)].mean(axis=0) for b in range(3)], axis=0).sum()

    for k in range(4):
        assert spread(corrected, kind == k) < 0.15 * spread(x, kind == k)
    own = [corrected[kind == k] for k in range(4)]
    within = np.mean([group.var(axis=0).sum() for group in own])
    assert np.var([group.mean(axis=0) for group in own], axis=0).sum() > 2 * within


def test_batches_nested_in_a_lab_are_as_labs():
    x, batch, _ = techniques(2)
    _, apart = integrate_here(labs_of(x, batch), 0)
    first = batch < 2
    _, nested = integrate_here([BatchedCells(x[first], batch[first]), one_batch(x[~first])], 0)
    np.testing.assert_allclose(nested[0].corrected, pooled(apart, batch)[first], atol=1e-9)
    np.testing.assert_allclose(nested[1].corrected, apart[2].corrected, atol=1e-9)
    np.testing.assert_allclose(
        nested[0].correction.offsets[:, 1], apart[1].correction.offsets[:, 0], atol=1e-9
    )


def test_one_batch_is_left_as_it_is():
    x, _, _ = techniques()
    harmony, states = integrate_here([one_batch(x)], 0)
    np.testing.assert_allclose(states[0].corrected, x, atol=1e-9)
    assert len(harmony.questions) == CLUSTER_STEPS + 2
    assert harmony.converged


def test_the_same_bits_again():
    x, batch, _ = techniques()
    first, second = (integrate_here(labs_of(x, batch), 5)[1] for _ in range(2))
    np.testing.assert_array_equal(pooled(first, batch), pooled(second, batch))


def test_at_most_sixty_questions_and_numbered():
    x, batch, _ = techniques(0, effect=8.0)
    rounds = []
    labs = labs_of(x, batch)
    harmony, _ = integrate_here(labs, 0)
    assert [int(q.arrays["step"][0]) for q in harmony.questions] == list(
        range(1, len(harmony.questions) + 1)
    )
    assert len(harmony.questions) == 6 * len(harmony.moved) <= 60
    ask, _ = asking(labs)
    again = learn_harmony(ask, len(x), harmony.questions[0].arrays["centres"], print_to(rounds))
    assert [moved for _, moved, _ in rounds] == again.moved.tolist()
    assert [done for done, _, _ in rounds] == list(range(1, len(rounds) + 1))


def print_to(rounds):
    return lambda *told: rounds.append(told)


def asking(labs, repeat=False, disk=False):
    """Ask labs and keep their states; twice each, or through bytes, on request."""
    states = [None] * len(labs)

    def ask(question):
        answers = []
        for i, lab in enumerate(labs):
            sums, state = answer(lab, states[i], question)
            if repeat:
                again, after = answer(lab, state, question)
                assert all(again[name].tobytes() == sums[name].tobytes() for name in sums)
                if state is not None:
                    assert after.step == state.step
                    np.testing.assert_array_equal(after.corrected, state.corrected)
            if disk and state is not None:
                state = HarmonyState.from_arrays(tensors.unpack(tensors.pack(state.arrays())))
            states[i] = state
            answers.append(sums)
        return add(answers)

    return ask, states


@pytest.mark.parametrize("how", ["repeat", "disk"])
def test_lost_replies_and_restarts_change_no_bit(how):
    x, batch, _ = techniques()
    labs = labs_of(x.astype(np.float32), batch)
    _, expected = integrate_here(labs, 0)
    ask, states = asking(labs, **{how: True})
    learn_harmony(ask, len(x), learn_start(ask, len(x), 0))
    np.testing.assert_array_equal(pooled(states, batch), pooled(expected, batch))
    assert states[0].corrected.dtype == np.float32


def test_begins_anew_over_the_state_of_another_run():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    _, expected = integrate_here(labs, 0)
    ask, states = asking(labs)
    learn_harmony(ask, len(x), learn_start(ask, len(x), 1))
    learn_harmony(ask, len(x), learn_start(ask, len(x), 0))
    np.testing.assert_array_equal(pooled(states, batch), pooled(expected, batch))


def test_a_missed_question_is_an_error():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    harmony, _ = integrate_here(labs, 0)
    _, state = answer(labs[0], None, harmony.questions[0])
    with pytest.raises(RunError, match=r"step 1 and is asked for step 3"):
        answer(labs[0], state, harmony.questions[2])
    with pytest.raises(RunError, match="has not begun and is asked for step 2"):
        answer(labs[0], None, harmony.questions[1])


def test_the_state_of_an_integration_is_told_from_that_of_another(monkeypatch):
    """One lab fewer: as many questions, and of the same names."""
    monkeypatch.setattr("fedsc.federated.harmony.ROUNDS", 2)
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    (of_all, states), (of_two, others) = integrate_here(labs, 0), integrate_here(labs[:2], 0)
    assert len(of_all.questions) == len(of_two.questions)
    assert {state.asked[-1] for state in states} == {of_all.name}
    assert {state.asked[-1] for state in others} == {of_two.name}
    assert of_all.name != of_two.name
    assert fit_later(labs[2], of_two.questions).asked[-1] == of_two.name


def test_a_question_of_another_integration_is_not_taken_for_one_asked_again():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    (of_all, _), (of_two, _) = integrate_here(labs, 0), integrate_here(labs[:2], 0)
    _, state = answer(labs[0], None, of_all.questions[0])
    _, state = answer(labs[0], state, of_all.questions[1])
    with pytest.raises(RunError, match="answered another question as step 2, of another"):
        answer(labs[0], state, of_two.questions[1])


def test_a_later_file_gets_the_correction_of_its_lab():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    _, states = integrate_here(labs, 0)
    np.testing.assert_array_equal(correct(labs[1], states[1].correction), states[1].corrected)
    some = one_batch(labs[1].x[10:30])
    np.testing.assert_allclose(
        correct(some, states[1].correction), states[1].corrected[10:30], atol=1e-12
    )


def test_a_later_file_may_hold_some_of_the_batches():
    x, batch, _ = techniques()
    lab = BatchedCells(x, batch)
    _, (state,) = integrate_here([lab], 0)
    rows = np.flatnonzero(batch != 1)
    later = correct(BatchedCells(x[rows], batch[rows]), state.correction)
    np.testing.assert_allclose(later, state.corrected[rows], atol=1e-12)
    with pytest.raises(DataError, match="for 3 batches of 6 dimensions, the cells have 4 and 6"):
        correct(BatchedCells(x[:2], np.array([0, 3])), state.correction)
    with pytest.raises(DataError, match="have 1 and 5"):
        correct(one_batch(x[:2, :5]), state.correction)


def test_a_lab_that_was_there_finds_its_state_from_the_questions():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    harmony, states = integrate_here(labs, 0)
    again = fit_later(labs[2], harmony.questions)
    np.testing.assert_array_equal(again.corrected, states[2].corrected)


def test_a_new_lab_joins_the_others():
    x, batch, kind = techniques(4, cells=1200, d=20, batches=4, effect=1.0)
    labs = labs_of(x, batch)
    harmony, states = integrate_here(labs[:3], 0)
    new = fit_later(labs[3], harmony.questions).corrected
    old = np.concatenate([state.corrected for state in states])
    of_old = np.concatenate([kind[batch == b] for b in range(3)])
    ratios = []
    for k in range(4):
        own, target = kind[batch == 3] == k, old[of_old == k].mean(axis=0)
        before, after = (np.linalg.norm(x[own].mean(axis=0) - target) for x in (labs[3].x, new))
        ratios.append(after / before)
    assert max(ratios) < 0.5
    assert np.mean(ratios) < 0.25


def test_what_the_server_keeps_survives_its_disk():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    harmony, states = integrate_here(labs, 0)
    kept = Harmony.from_arrays(tensors.unpack(tensors.pack(harmony.arrays())))
    assert [q.name for q in kept.questions] == [q.name for q in harmony.questions]
    np.testing.assert_array_equal(kept.moved, harmony.moved)
    np.testing.assert_array_equal(fit_later(labs[0], kept.questions).corrected, states[0].corrected)


def test_damaged_states_are_said():
    x, batch, _ = techniques()
    harmony, states = integrate_here(labs_of(x, batch), 0)
    arrays = states[0].arrays()
    del arrays["penalty"]
    with pytest.raises(RunError, match=r"state of the integration is damaged .*penalty"):
        HarmonyState.from_arrays(arrays)
    with pytest.raises(DataError, match="kept integration is damaged"):
        Harmony.from_arrays({"moved": harmony.moved, "1.odd": harmony.moved})
    with pytest.raises(DataError, match="kept integration is damaged"):
        Harmony.from_arrays(harmony.arrays() | {"moved": np.array(0.5)})
    with pytest.raises(RunError, match="no question"):
        fit_later(one_batch(x), [])


def _hostile(name, change):
    """Change one of the arrays the server keeps."""
    return lambda arrays: arrays | {name: change(arrays[name].copy())}


def _without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def _set(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


_FIRST, _LAST = "000.harmony-cluster", "005.harmony-correct"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: {}, "moved"),
        (lambda arrays: {"moved": arrays["moved"]}, "0 questions in"),
        (_hostile("moved", lambda a: a[:-1]), "rounds"),
        (_without(f"{_FIRST}.centres"), "centres"),
        (_without(f"{_LAST}.intercepts"), "step 6 has other arrays"),
        (lambda arrays: arrays | {f"{_FIRST}.more": np.ones(2)}, "step 1 has other arrays"),
        (_hostile(f"{_FIRST}.centres", lambda a: a[0]), "not enough values"),
        (_hostile(f"{_FIRST}.centres", lambda a: a[:, :0]), "clusters of 0 dimensions"),
        (_hostile(f"{_FIRST}.centres", lambda a: np.ones((10**4, 2))), "10000 clusters"),
        (_hostile(f"{_FIRST}.centres", lambda a: a[1:]), "step 1 has other arrays"),
        (_hostile(f"{_LAST}.intercepts", _set(np.nan)), "intercepts is not finite"),
        (_hostile(f"{_LAST}.sizes", _set(-1.0)), "sizes is not finite, or too small"),
        (_hostile(f"{_FIRST}.cells", _set(0)), "cells is not finite, or too small"),
        (_hostile(f"{_LAST}.step", _set(5)), "step 6 is not numbered so"),
        (_hostile(f"{_LAST}.step", lambda a: a.astype(float)), "step 6 is not numbered so"),
    ],
)
def test_a_hostile_integration_ends_in_a_sentence(tmp_path, change, words):
    x, batch, _ = techniques()
    harmony, _ = integrate_here(labs_of(x, batch), 0)
    content = tensors.pack(change(harmony.arrays()), {"model": MODEL.digest})
    (tmp_path / HARMONY).write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        load_harmony(tmp_path, MODEL)
    assert str(raised.value).startswith(str(tmp_path / HARMONY))


def test_the_integration_of_a_run_folder(tmp_path):
    assert load_harmony(tmp_path, MODEL) is None
    x, batch, _ = techniques()
    harmony, _ = integrate_here(labs_of(x, batch), 0)
    (tmp_path / HARMONY).write_bytes(tensors.pack(harmony.arrays(), {"model": MODEL.digest}))
    new = load_harmony(tmp_path, MODEL).correct_new_lab(x)
    np.testing.assert_array_equal(new, harmony.correct_new_lab(x))
    with pytest.raises(DataError, match="of 6 dimensions, the model has 7"):
        load_harmony(tmp_path, SimpleNamespace(dimensions=7, digest=MODEL.digest))
    with pytest.raises(DataError, match="made with another model than the one beside it"):
        load_harmony(tmp_path, SimpleNamespace(dimensions=6, digest="4567"))
    (tmp_path / HARMONY).write_bytes(b"rubbish" * 9)
    with pytest.raises(DataError, match=HARMONY):
        load_harmony(tmp_path, MODEL)
    (tmp_path / HARMONY).unlink()
    (tmp_path / HARMONY).mkdir()
    with pytest.raises(DataError, match="is no file"):
        load_harmony(tmp_path, MODEL)


def test_no_question_tells_of_a_single_lab():
    """What is sent to all labs follows from totals: the same for any labs with these totals."""
    x, batch, _ = techniques()
    harmony, _ = integrate_here(labs_of(x, batch), 0)
    for question in harmony.questions:
        assert question.arrays.keys() <= {"step", "cells", "centres", "sizes", "intercepts"}
        assert all(len(array) != 3 for array in question.arrays.values())


def test_a_lab_without_cells_adds_nothing():
    x, batch, _ = techniques()
    labs = labs_of(x, batch)
    _, expected = integrate_here(labs, 0)
    nobody = BatchedCells(np.empty((0, 6)), np.empty(0, dtype=np.int64))
    _, states = integrate_here([*labs, nobody], 0)
    np.testing.assert_array_equal(pooled(states[:3], batch), pooled(expected, batch))
    assert states[3].corrected.shape == (0, 6)


def test_cells_at_the_origin_and_equal_cells_stay_finite():
    x, batch, _ = techniques(cells=100)
    x[:5] = 0
    x[5:60] = x[5]
    _, states = integrate_here(labs_of(x, batch), 0)
    assert np.isfinite(pooled(states, batch)).all()
    _, states = integrate_here(labs_of(np.zeros((40, 3)), np.arange(40) % 2), 0)
    np.testing.assert_array_equal(states[0].corrected, 0)


def test_fewer_cells_than_a_cluster_needs():
    x, batch, _ = techniques(cells=7, batches=2)
    harmony, states = integrate_here(labs_of(x, batch), 0)
    assert len(harmony.questions[0].arrays["centres"]) == 1
    assert np.isfinite(pooled(states, batch)).all()


@pytest.mark.parametrize(
    ("batches", "message"),
    [([0, 1], "one batch"), ([0, -1, 0], "one batch"), ([0, 0, MOST_BATCHES], "name batches")],
)
def test_odd_batches_are_refused(batches, message):
    with pytest.raises(DataError, match=message):
        BatchedCells(np.zeros((3, 2)), np.array(batches))


def test_unknown_questions_are_refused():
    with pytest.raises(ValueError, match=r"unknown question 'weather', known are \['harmony-clus"):
        answer(one_batch(np.zeros((3, 2))), None, Question("weather"))


def test_values_that_are_not_finite_are_said():
    x, batch, _ = techniques()
    x[3, 2] = np.nan
    with pytest.raises(RunError, match="not finite"):
        integrate_here(labs_of(x, batch), 0)
