import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.errors import DataError
from fedsc.federated.annotation import (
    LEAST_CELLS,
    UNKNOWN,
    alike,
    learn_types,
    types_from_counts,
)
from fedsc.federated.answers import answer
from fedsc.federated.clustered import Clustered
from fedsc.federated.query import ask_locally

NAMES = ["B", "NK", "T"]


def lab(labels, clusters):
    """Give a lab of which only types are asked: its expression plays no part."""
    labels = None if labels is None else np.array(labels, dtype=object)
    return Clustered(None, np.array(clusters, dtype=np.int64), labels)


cells = st.tuples(st.sampled_from(["", *NAMES]), st.integers(0, 3), st.integers(1, 12))
annotated = st.lists(cells, max_size=8).map(
    lambda drawn: [(name, cluster) for name, cluster, n in drawn for _ in range(n)]
)


@given(st.lists(annotated, min_size=1, max_size=4), st.floats(0, 1))
def test_the_commonest_type_of_the_pool_s_cells(parts, threshold):
    labs = [lab([name for name, _ in part], [cluster for _, cluster in part]) for part in parts]
    labs.append(lab(None, [0, 1, 2, 3]))  # a lab without annotation counts nothing
    types = learn_types(ask_locally(labs, answer), NAMES, 4, threshold)
    for cluster in range(4):
        here = [name for part in parts for name, own in part if own == cluster and name]
        counts = [here.count(name) for name in NAMES]
        assert types.annotated[cluster] == len(here)
        if not here:
            assert (types.names[cluster], types.shares[cluster]) == (UNKNOWN, 0)
            continue
        share = max(counts) / len(here)
        assert types.shares[cluster] == share
        commonest = NAMES[counts.index(max(counts))]
        known = share >= threshold and len(here) >= LEAST_CELLS
        assert types.names[cluster] == (commonest if known else UNKNOWN)


def test_thresholds_and_ties():
    table = np.array([[5, 4, 0, 5, 9, 9], [5, 5, 0, 4, 9, 0], [0, 1, 0, 3, 9, 0]])
    types = types_from_counts(table, NAMES)
    assert types.names.tolist() == ["B", "NK", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert types.shares.tolist() == [0.5, 0.5, 0, 5 / 12, 1 / 3, 1]
    assert types.annotated.tolist() == [10, 10, 0, 12, 27, 9]
    every = types_from_counts(table, NAMES, 0.0)
    assert every.names.tolist() == ["B", "NK", UNKNOWN, "B", "B", UNKNOWN]


def test_ties_do_not_hang_on_the_order_of_the_vocabulary():
    table = np.array([[6, 5], [6, 5], [0, 5]])
    types = types_from_counts(table, ["T", "B", "NK"], 0.0)
    assert types.names.tolist() == ["B", "B"]


def test_no_lab_is_annotated():
    def ask(question):
        raise AssertionError("nothing to ask")

    types = learn_types(ask, [], 3)
    assert types.names.tolist() == [UNKNOWN] * 3
    assert types.shares.tolist() == types.annotated.tolist() == [0, 0, 0]
    silent = learn_types(ask_locally([lab(None, [0, 1])], answer), NAMES, 2)
    assert silent.names.tolist() == [UNKNOWN] * 2


def test_types_that_differ_in_case_or_white_space_are_told():
    names = ["CD4 T", "cd4 t", "CD4T", "B", "b ", "NK", "CD8 T"]
    assert alike(names) == [("B", "b "), ("CD4 T", "CD4T", "cd4 t")]
    assert alike(["NK", "NKT", "NK"]) == []
    assert alike([]) == []


def test_a_type_nobody_agreed_on_is_refused():
    with pytest.raises(DataError, match=r"e\.g\. 'HSC'"):
        learn_types(ask_locally([lab(["HSC"], [0])], answer), NAMES, 1)
