import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import vstack

from fedsc.errors import RunError
from fedsc.federated.micro import ANSWERS, SCALE, STEP, MicroCentres, learn_micro, unit, weigh
from fedsc.federated.query import Question, add, ask_locally


def cloud(seed, cells=600, d=6, types=5):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(types, d))[np.arange(cells) % types] + rng.normal(size=(cells, d))


def answer(x, question):
    return ANSWERS[question.name](x, question)


def learn(*parts, seed=0):
    return learn_micro(ask_locally(parts, answer), seed)


def slow_weights(micro, x):
    """Weights of every cell by the definition, without the rounding to multiples of 2⁻¹⁵."""
    z = np.zeros((len(x), len(micro.centres)))
    n_sets = micro.sets.max() + 1
    for i, cell in enumerate(x):
        u = cell / np.linalg.norm(cell)
        for one in range(n_sets):
            own = np.flatnonzero(micro.sets == one)
            squares = np.square(u - micro.centres[own]).sum(axis=1)
            order = np.argsort(squares)[:3]
            w = np.exp(-(squares[order] - squares.min()) / micro.scale)
            z[i, own[order]] = w / w.sum() / n_sets
    return z


def test_weights_equal_the_definition():
    x = cloud(0)
    micro = learn(x)
    np.testing.assert_allclose(weigh(micro, x).toarray(), slow_weights(micro, x), atol=2**-15)


def test_weights_are_positive_multiples_and_sum_to_one_exactly():
    x = cloud(1)
    z = weigh(learn(x), x)
    assert (z.sum(axis=1) == 1).all()
    assert (z.data >= 0).all()
    assert (z.data * 2**17 == np.round(z.data * 2**17)).all()


def test_the_scale_is_the_mean_excess():
    x = cloud(2)
    micro = learn(x[:50], x[50:])
    total = 0.0
    for one in range(4):
        own = micro.centres[micro.sets == one]
        squares = np.sort(np.square(unit(x)[:, None] - own).sum(axis=2), axis=1)[:, :3]
        total += (squares - squares[:, :1]).sum()
    assert micro.scale == pytest.approx(total / (3 * 4 * len(x)))


def test_a_set_has_about_two_roots_of_n_centres_each_of_five_cells_or_more():
    x = cloud(3, cells=900)
    micro = learn(x)
    assert micro.sets.tolist() == sorted(micro.sets)
    for one in range(4):
        own = micro.centres[micro.sets == one]
        assert 40 <= len(own) <= 60
    z = weigh(micro, x)
    assert z.getnnz(axis=1).tolist() == [12] * 900


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 600), max_size=4))
@settings(max_examples=5)
def test_how_cells_are_split_changes_no_weight(seed, cuts):
    x = cloud(4)
    order = np.random.default_rng(seed).permutation(len(x))
    whole = learn(x)
    split = learn(*np.split(x[order], sorted(cuts)))
    np.testing.assert_array_equal(split.sets, whole.sets)
    np.testing.assert_allclose(split.centres, whole.centres, atol=1e-12)
    assert (weigh(split, x) != weigh(whole, x)).nnz == 0


def test_sums_of_batches_equal_those_of_all_cells():
    x = cloud(5, cells=5000)
    micro = learn(x[:600])
    question = Question(SCALE, micro.arrays())
    parts = add(answer(part, question) for part in np.split(x, [7, 2500]))
    np.testing.assert_allclose(answer(x, question)["excess"], parts["excess"], rtol=1e-12)
    question = Question(STEP, {"centres": micro.centres[None]})
    sums = answer(x, question)
    own = np.linalg.norm(unit(x)[:, None] - micro.centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(sums["n"][0], np.bincount(own, minlength=len(micro.centres)))


def test_only_directions_matter():
    x = cloud(6)
    longer = x * np.random.default_rng(0).uniform(0.1, 9, size=(len(x), 1))
    one, two = learn(x), learn(longer)
    np.testing.assert_allclose(one.centres, two.centres, atol=1e-9)


def test_a_cell_at_the_origin_stays_there():
    assert unit(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0]])), [[0.6, 0.8]])


def test_what_a_question_holds_is_read_back():
    micro = learn(cloud(7))
    again = MicroCentres.of(micro.arrays())
    assert again.scale == micro.scale
    assert again.centres is micro.centres
    assert again.sets is micro.sets


def test_about_twenty_questions_for_thousands_of_cells():
    x, asked = cloud(8, cells=7500), []

    def ask(question):
        asked.append(question.name)
        return answer(x, question)

    learn_micro(ask, 0)
    assert len(asked) <= 20


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 9])
def test_few_cells_are_enough(cells):
    x = cloud(9, cells=cells)
    micro = learn(x, x[:0])
    z = weigh(micro, x)
    assert (z.sum(axis=1) == 1).all()


def test_equal_cells_have_equal_weights():
    micro = learn(np.ones((50, 3)))
    assert micro.scale == 1e-12
    z = weigh(micro, np.ones((4, 3))).toarray()
    assert (z == z[0]).all()
    assert (z.sum(axis=1) == 1).all()


def test_a_cell_alone_and_one_of_many_have_the_same_weights():
    x = cloud(10)
    micro = learn(x)
    alone = vstack([weigh(micro, x[i : i + 1]) for i in range(20)])
    np.testing.assert_array_equal(alone.toarray(), weigh(micro, x[:20]).toarray())


def test_the_seed_decides():
    x = cloud(11)
    first, again, other = learn(x, seed=1), learn(x, seed=1), learn(x, seed=2)
    assert first.centres.tobytes() == again.centres.tobytes()
    assert first.centres.tobytes() != other.centres.tobytes()


def test_refuses_labs_without_cells():
    with pytest.raises(RunError, match="no cell"):
        learn(np.empty((0, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_values_that_are_not_finite(value):
    x = cloud(12)
    x[3, 2] = value
    with np.errstate(invalid="ignore"), pytest.raises(RunError, match="not finite"):
        learn(x)
