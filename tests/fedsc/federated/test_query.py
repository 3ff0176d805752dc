import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsc.federated.query import Question, add, ask_locally


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
