import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from fedsc.federated.correction import BatchedCells
from fedsc.federated.kmeans import assign
from fedsc.federated.micro import unit
from fedsc.federated.mixing import Mixing, closure, decide, learn_mixing, sum_mixing
from fedsc.federated.query import Question, ask_locally
from simulations.harmony import integrate_here


def ask_of(labs, corrected=None):
    corrected = corrected or [None] * len(labs)
    return ask_locally(
        list(zip(labs, corrected, strict=True)), lambda lab, question: sum_mixing(*lab, question)
    )


def directions(k, d=8):
    return np.eye(d)[:k]


def cells_at(counts, rng, d=8):
    """Cells of one batch, ``counts`` of them near each of the first directions."""
    x = np.repeat(directions(len(counts), d), counts, axis=0)
    return x + 0.01 * rng.normal(size=x.shape)


def one_batch(x):
    return BatchedCells(x, np.zeros(len(x), dtype=np.int64))


@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=2, max_size=5))
def test_index_is_the_conditional_entropy_less_chance(table):
    table = np.array(table)
    table = table[table.sum(axis=1) > 0]
    rng = np.random.default_rng(0)
    labs = [one_batch(cells_at(row, rng)) for row in table]
    if len(labs) < 2:
        return
    found = learn_mixing(ask_of(labs), directions(3))
    sizes, n = table.sum(axis=0), table.sum()
    per_cluster = [entropy(column) for column in table.T if column.sum() > 0]
    within = sizes[sizes > 0] @ per_cluster / n
    chance = (np.count_nonzero(sizes) - 1) * (len(table) - 1) / (2 * n)
    expected = min((within + chance) / entropy(table.sum(axis=1)), 1)
    assert found.index == pytest.approx(expected, abs=1e-9)
    assert found.bend == 0


def test_nested_batches_count_as_labs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    batch = rng.integers(0, 3, 300)
    moved = x + rng.normal(size=x.shape) * 0.1 + np.array([0.2, 0.0, -0.3])[batch][:, None]
    centres = unit(x[:6])
    apart = learn_mixing(
        ask_of([one_batch(x[batch == b]) for b in range(3)], [moved[batch == b] for b in range(3)]),
        centres,
    )
    nested = learn_mixing(ask_of([BatchedCells(x, batch)], [moved]), centres)
    assert nested.index == pytest.approx(apart.index, abs=1e-12)
    assert nested.bend == pytest.approx(apart.bend, abs=1e-12)


def test_chance_is_not_a_lack_of_mixing():
    rng = np.random.default_rng(1)
    x, batch = rng.normal(size=(3000, 10)), rng.integers(0, 12, 3000)
    centres = unit(rng.normal(size=(100, 10)))
    index = learn_mixing(ask_of([BatchedCells(x, batch)]), centres).index
    assert index == pytest.approx(1, abs=0.02)
    clusters = assign(centres, unit(x))
    table = np.zeros((12, 100))
    np.add.at(table, (batch, clusters), 1)
    uncorrected = table.sum(axis=0) @ entropy(table) / 3000 / entropy(table.sum(axis=1))
    assert uncorrected < 0.95


def test_disjoint_labs_do_not_mix_at_all():
    rng = np.random.default_rng(0)
    labs = [one_batch(cells_at([4000, 0], rng)), one_batch(cells_at([0, 4000], rng))]
    assert learn_mixing(ask_of(labs), directions(2)).index == pytest.approx(0, abs=1e-3)


def test_a_single_batch_is_mixed():
    x = np.random.default_rng(0).normal(size=(50, 4))
    found = learn_mixing(ask_of([one_batch(x)]), unit(x[:3]))
    assert (found.index, found.batches) == (1, 1)
    decision = decide(found)
    assert not decision.integrate
    assert "all cells are of one lab and one batch" in decision.reason


def test_bend_of_known_movements():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4))
    lab, centres = one_batch(x), unit(x[:3])
    whole = x + np.array([1.0, 2.0, 0.0, 0.0])
    assert learn_mixing(ask_of([lab], [whole]), centres).bend == pytest.approx(0, abs=1e-12)
    halves = x + np.where(np.arange(400) % 2, 1, -1)[:, None] * np.ones(4)
    assert learn_mixing(ask_of([lab], [halves]), centres).bend == pytest.approx(1)
    both = halves + np.array([1.0, 1.0, 1.0, 1.0])
    assert learn_mixing(ask_of([lab], [both]), centres).bend == pytest.approx(0.5)
    assert learn_mixing(ask_of([lab], [x]), centres).bend == 0


def test_a_lab_without_cells_adds_nothing():
    x = np.random.default_rng(0).normal(size=(50, 4))
    lab, nobody = one_batch(x), one_batch(np.empty((0, 4)))
    centres = unit(x[:3])
    for corrected in (None, x + 1):
        with_nobody = sum_mixing(nobody, None if corrected is None else x[:0], question(centres))
        alone = sum_mixing(lab, corrected, question(centres))
        assert with_nobody.keys() == alone.keys()
        for name, array in with_nobody.items():
            assert not array.any()
            assert (array.shape, array.dtype) == (alone[name].shape, alone[name].dtype)


def question(centres):
    return Question("mixing", {"centres": centres})


def test_closure_is_the_share_of_what_was_missing():
    assert closure(Mixing(0.2, 0, 2), Mixing(0.6, 0.1, 2)) == pytest.approx(0.5)
    assert closure(Mixing(0.5, 0, 2), Mixing(0.4, 0.1, 2)) == pytest.approx(-0.2)
    assert closure(Mixing(1.0, 0, 2), Mixing(1.0, 0.1, 2)) == 1


@pytest.mark.parametrize(
    ("before", "after", "integrate", "reason"),
    [
        (0.95, None, False, "mixed already"),
        (0.3, None, True, "may help"),
        (0.3, (0.9, 0.2), True, "86% of the gap closed, 20% of the movement"),
        (0.3, (0.5, 0.2), False, "29% of the gap closed, 20% of the movement"),
        (0.3, (0.9, 0.8), False, "the difference should be at least 40%"),
    ],
)
def test_decisions_give_their_figures(before, after, integrate, reason):
    decision = decide(Mixing(before, 0, 2), None if after is None else Mixing(*after, 2))
    assert decision.integrate is integrate
    assert reason in decision.reason


def blobs(types, shift, rng, cells=400, d=20):
    """Cells of the given types; the technique moves them by ``shift``."""
    centres = np.random.default_rng(7).normal(size=(6, d)) * 2
    return one_batch(centres[rng.choice(types, cells)] + shift + rng.normal(size=(cells, d)))


def advice(labs):
    harmony, states = integrate_here(labs, 0)
    before = learn_mixing(ask_of(labs), harmony.questions[0].arrays["centres"])
    after = learn_mixing(ask_of(labs, [state.corrected for state in states]), harmony.centres)
    return decide(before, after), before, after


def test_techniques_are_integrated_and_types_are_not():
    rng = np.random.default_rng(0)
    shifts = rng.normal(size=(3, 20)) * 0.8
    same_types = [blobs(range(6), shift, rng) for shift in shifts]
    decision, before, after = advice(same_types)
    assert decision.integrate, decision.reason
    assert after.index > before.index
    by_type = [blobs(types, 0, rng) for types in ([0, 1, 2], [2, 3, 4], [4, 5, 0])]
    decision, _, _ = advice(by_type)
    assert not decision.integrate, decision.reason
