import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.federated.medians import histograms, learn_medians
from fedsc.federated.query import Question, ask_locally

values = st.one_of(
    st.integers(0, 9).map(float),
    st.floats(min_value=0.0, max_value=1e300, allow_subnormal=True).map(abs),  # -0.0 too
)
labs = st.lists(
    st.fixed_dictionaries({"a": st.lists(values, max_size=7), "b": st.lists(values, max_size=7)}),
    min_size=1,
    max_size=3,
)


@settings(max_examples=30)
@given(labs)
def test_medians_of_several_quantities_at_once(labs):
    asked = []

    def answer(lab, question):
        asked.append(question)
        return histograms({name: np.array(lab[name]) for name in lab}, question)

    found = learn_medians(ask_locally(labs, answer), Question("any", {"more": np.ones(1)}), "ab")
    for name in "ab":
        pooled = np.array([value for lab in labs for value in lab[name]])
        if len(pooled):
            assert found[name] == np.median(pooled)
        else:
            assert math.isnan(found[name])
    assert len(asked) <= 4 * len(labs)
    for question in asked:
        assert question.name == "any"
        assert question.arrays["more"] == 1
        edges = [question.arrays[name] for name in "ab" if name in question.arrays]
        assert all(len(some) <= 2**17 + 4 and (np.diff(some) > 0).all() for some in edges)


def test_only_what_is_asked_about_is_counted():
    edges = np.array([0, 2**62, 2**63 - 1])
    sums = histograms({"a": np.array([0.5, 4.0]), "b": np.ones(3)}, Question("any", {"a": edges}))
    assert {name: counts.tolist() for name, counts in sums.items()} == {"a": [1, 1]}
    assert sums["a"].dtype == np.int64
