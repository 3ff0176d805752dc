import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsc.federated.answers import answer, implausible
from fedsc.federated.bounds import Asked
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import Question, add, ask_locally, parts, together


def test_adds_by_name():
    total = add(
        [
            {"n": np.array([2]), "sum": np.array([1.5, 2.0])},
            {"n": np.array([3]), "sum": np.array([0.25, -2.0])},
        ]
    )
    assert total["n"].tolist() == [5]
    assert total["sum"].tolist() == [1.75, 0.0]
    assert total["n"].dtype == np.int64
    assert total["sum"].dtype == np.float64


def test_one_answer_is_its_own_total():
    answer = {"n": np.array([2])}
    total = add([answer])
    assert total["n"].tolist() == [2]
    assert total["n"] is not answer["n"]


def test_leaves_the_answers_as_they_are():
    answers = [{"sum": np.array([1.0, 2.0])}, {"sum": np.array([3.0, 4.0])}]
    total = add(answers)
    total["sum"][0] = 100
    assert [answer["sum"].tolist() for answer in answers] == [[1.0, 2.0], [3.0, 4.0]]


def test_refuses_nothing():
    with pytest.raises(ValueError, match="no answers"):
        add([])


@pytest.mark.parametrize("second", [{}, {"m": np.zeros(1)}, {"n": np.zeros(1), "m": np.zeros(1)}])
def test_refuses_other_names(second):
    with pytest.raises(ValueError, match="answers differ"):
        add([{"n": np.zeros(1)}, second])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_refuses_other_shapes_even_those_that_broadcast(shape):
    with pytest.raises(ValueError, match="n: shapes"):
        add([{"n": np.zeros(2)}, {"n": np.zeros(shape)}])


@given(
    st.lists(arrays(np.int64, (2, 3), elements=st.integers(-(2**55), 2**55)), min_size=1).flatmap(
        lambda tables: st.tuples(st.just(tables), st.permutations(tables))
    )
)
def test_whole_numbers_add_up_exactly_in_any_order(orders):
    given_order, other_order = orders
    first = add([{"table": table} for table in given_order])["table"]
    second = add([{"table": table} for table in other_order])["table"]
    exact = [sum(int(t.flat[i]) for t in given_order) for i in range(6)]
    assert first.ravel().tolist() == second.ravel().tolist() == exact


@given(st.lists(arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)), min_size=2))
def test_order_moves_a_float_total_by_rounding_alone(parts):
    forward = add([{"x": part} for part in parts])["x"]
    backward = add([{"x": part} for part in reversed(parts)])["x"]
    bound = np.finfo(float).eps * len(parts) * np.sum(np.abs(parts), axis=0)
    assert (np.abs(forward - backward) <= bound).all()


def test_asks_every_lab_the_same_question_in_order():
    asked = []

    def answer(lab, question):
        asked.append((lab, question))
        return {"n": np.array([len(lab)])}

    question = Question("length", {"shift": np.zeros(2)})
    total = ask_locally(["a", "bcd", "ef"], answer)(question)
    assert total["n"].tolist() == [6]
    assert asked == [("a", question), ("bcd", question), ("ef", question)]


def test_a_question_needs_no_arrays():
    assert Question("length").arrays == {}


MEAN, STEP = Question("kmeans-mean"), Question("kmeans-step", {"centres": np.eye(2, 3)[None]})
LABS = [Embedded(np.arange(12.0).reshape(4, 3) + i, None) for i in range(2)]


def test_several_questions_are_one_message_and_have_their_own_answers():
    asked = []

    def ask(question):
        asked.append(question)
        return ask_locally(LABS, answer)(question)

    told = together(ask, MEAN, STEP)
    assert len(asked) == 1
    assert [part.name for part in parts(asked[0])] == [MEAN.name, STEP.name]
    for question in (STEP, MEAN):
        alone = ask_locally(LABS, answer)(question)
        assert told(question).keys() == alone.keys()
        assert all(np.array_equal(told(question)[name], array) for name, array in alone.items())
    assert len(asked) == 1


def test_arrays_that_questions_share_travel_once_and_are_the_same():
    links = Question("a", {"centres": np.zeros(3), "k": np.ones(1)})
    tally = Question("b", {"centres": np.zeros(3)})
    asked = []

    def ask(question):
        asked.append(question)
        return {"a/n": np.ones(1), "b/n": np.zeros(1)}

    assert together(ask, links, tally)(tally)["n"] == 0
    assert asked[0].arrays.keys() == {"questions", "centres", "k"}
    with pytest.raises(ValueError, match="'b' differs from the others in centres"):
        together(ask, links, Question("b", {"centres": np.ones(3)}))


def test_a_lie_in_one_of_several_answers_is_found():
    asked = []
    together(lambda q: asked.append(q) or answer(LABS[0], q), MEAN, STEP)
    honest = answer(LABS[0], asked[0])
    against = Asked(asked[0], 4)
    assert implausible(honest, against) == ""
    assert "adds up to 5" in implausible({**honest, "kmeans-mean/n": np.array([5])}, against)
    lie = {**honest, "kmeans-step/squares": -honest["kmeans-step/squares"] - 1}
    assert "squares" in implausible(lie, against)


@pytest.mark.parametrize("names", ["kmeans-mean\nno such", "several", ""])
def test_several_questions_of_which_one_is_unknown_are_refused(names):
    arrays = {"questions": np.frombuffer(names.encode(), np.uint8), "centres": np.zeros((1, 1, 3))}
    with pytest.raises((ValueError, KeyError)):
        answer(LABS[0], Question("several", arrays))
