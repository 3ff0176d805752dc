import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.data import rows
from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.errors import DataError
from fedsc.federated.answers import answer
from fedsc.federated.preprocessing import ANSWERS
from fedsc.federated.query import Question, ask_locally
from fedsc.federated.statistics import learn_moments, median_library_size


def lab(matrix, genes=None, kind="counts", vocabulary=None):
    matrix = sp.csr_matrix(np.asarray(matrix, dtype=np.float32))
    cells = np.array([f"cell-{i}" for i in range(matrix.shape[0])], dtype=object)
    genes = [f"gene {i} x" for i in range(matrix.shape[1])] if genes is None else genes
    expression = Expression(
        np.array(genes, dtype=object), cells, pd.DataFrame(index=cells), kind, matrix
    )
    return align(expression, genes if vocabulary is None else vocabulary)


def counting(ask):
    def counted(question):
        counted.questions.append(question)
        return ask(question)

    counted.questions = []
    return counted


class Sizes:
    """A lab of which only library sizes are asked."""

    def __init__(self, sizes):
        self.sizes = np.asarray(sizes, dtype=np.float64)


def ask_sizes(labs):
    return ask_locally(labs, lambda lab, question: ANSWERS[question.name](lab, question))


positive = st.floats(min_value=5e-324, max_value=1e308, allow_subnormal=True)
sizes = st.one_of(st.integers(0, 50).map(float), positive)


@settings(deadline=None)
@given(st.lists(st.lists(sizes, max_size=8), min_size=1, max_size=4))
def test_median_is_exact_in_at_most_four_questions(labs):
    pooled = np.array([size for lab in labs for size in lab if size > 0])
    ask = counting(ask_sizes([Sizes(lab) for lab in labs]))
    if not len(pooled):
        with pytest.raises(DataError, match="no lab has a cell with counts"):
            median_library_size(ask)
        return
    with np.errstate(over="ignore"):  # the mean of two huge middle values, in NumPy too
        assert median_library_size(ask) == np.median(pooled)
    assert len(ask.questions) <= 4
    asked = [edges for question in ask.questions for edges in question.arrays.values()]
    assert max(map(len, asked)) <= 2**17 + 4
    assert all((np.diff(edges) > 0).all() for edges in asked)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 1001])
def test_median_of_many(n):
    sizes = np.random.default_rng(n).lognormal(8, 1, size=n)
    ask = ask_sizes([Sizes(part) for part in np.array_split(sizes, 3)])
    assert median_library_size(ask) == np.median(sizes)


VIEWS = ("counts", "linear", "log")


def views_by_hand(counts, target_sum):
    counts = counts[counts.sum(axis=1) > 0].astype(np.float64)
    linear = counts / counts.sum(axis=1, keepdims=True) * target_sum
    return {"counts": counts, "linear": linear, "log": np.log1p(linear)}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([1, 3, 10**6]))
def test_moments_of_any_partition_are_the_pool_s(seed, parts, block):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2, size=6), size=(rng.integers(2, 12), 6))
    lab_of = rng.integers(parts, size=len(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", block)
        ask = counting(ask_locally([lab(counts[lab_of == i]) for i in range(parts)], answer))
        moments = learn_moments(ask, VIEWS, 6, 10.0)
    assert len(ask.questions) == 2
    full = views_by_hand(counts, 10.0)
    assert (moments.n == len(full["log"])).all()
    assert moments.n.dtype == moments.detected.dtype == np.int64
    np.testing.assert_array_equal(moments.detected, (counts > 0).sum(axis=0))
    for view, x in full.items():
        if len(x) > 1:
            np.testing.assert_allclose(moments.mean[view], x.mean(axis=0), rtol=1e-12)
            variance = x.var(axis=0, ddof=1)
            np.testing.assert_allclose(moments.variance[view], variance, rtol=1e-10, atol=1e-24)


def test_genes_a_lab_did_not_measure_are_not_zero():
    vocabulary = ["A", "B", "C"]
    first = lab([[1, 3], [2, 2], [4, 0]], ["A", "B"], vocabulary=vocabulary)
    second = lab([[5, 5], [0, 0]], ["C", "B"], vocabulary=vocabulary)
    moments = learn_moments(ask_locally([first, second], answer), VIEWS, 3, 4.0)
    assert moments.n.tolist() == [3, 4, 1]
    np.testing.assert_allclose(moments.mean["counts"], [7 / 3, 2.5, 5])
    np.testing.assert_allclose(
        moments.variance["counts"],
        [np.var([1, 2, 4], ddof=1), np.var([3, 2, 0, 5], ddof=1), 0],
    )


def test_nothing_cancels_when_the_mean_is_far_above_the_variance():
    rng = np.random.default_rng(0)
    noise = np.round(rng.normal(size=5000) * 4) / 4  # float32 holds quarters at a million
    gene = 1e6 + noise
    counts = np.column_stack([gene, 2e6 - gene])  # every library is two million
    ask = ask_locally([lab(part) for part in np.array_split(counts, 3)], answer)
    moments = learn_moments(ask, VIEWS, 2, 2e6)
    for view in ("counts", "linear"):
        np.testing.assert_allclose(moments.mean[view][0], gene.mean(), rtol=1e-14)
        np.testing.assert_allclose(moments.variance[view][0], noise.var(ddof=1), rtol=1e-9)
    # log1p(x) near a million has a variance of 1e-12; its own rounding is 1e-15 of 14
    expected = np.log1p(noise / (1 + 1e6)).var(ddof=1)
    np.testing.assert_allclose(moments.variance["log"][0], expected, rtol=1e-6)


def test_constant_genes_have_no_variance_left():
    counts = np.tile([3, 7, 0], (1000, 1))
    ask = ask_locally([lab(part) for part in np.array_split(counts, 7)], answer)
    moments = learn_moments(ask, VIEWS, 3, 1e4 / 3)
    for view in VIEWS:
        assert moments.variance[view].tolist() == [0, 0, 0]


def test_lognorm_values_are_taken_as_they_are():
    values = np.log1p(np.array([[1.0, 0.0, 2.0], [4.0, 3.0, 0.0], [0.0, 0.0, 0.0]], np.float32))
    moments = learn_moments(ask_locally([lab(values, kind="lognorm")], answer), VIEWS, 3, 0.0)
    assert moments.n.tolist() == [2, 2, 2]
    np.testing.assert_allclose(moments.mean["log"], values[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.mean["linear"], [2.5, 1.5, 1.0], rtol=1e-6)


def test_clipped_squares():
    counts = np.array([[1, 0, 9], [4, 2, 0], [0, 0, 0], [8, 0, 1]], dtype=float)
    mean, clip = np.array([2.0, 0.5, 3.0]), np.array([5.0, 5.0, 4.5])
    question = Question("clipped-squares", {"mean": mean, "clip": clip})
    sums = ask_locally([lab(counts[:1]), lab(counts[1:])], answer)(question)
    expected = ((np.minimum(counts[[0, 1, 3]], clip) - mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(sums["square"], expected)


def test_answers_add_up():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, size=(20, 5))
    centres = dict.fromkeys(VIEWS, rng.normal(size=5))
    question = Question("gene-moments", {"target_sum": np.array([10.0]), **centres})
    pooled = answer(lab(counts), question)
    apart = ask_locally([lab(counts[:7]), lab(counts[7:])], answer)(question)
    assert apart.keys() == pooled.keys()
    for name in pooled:
        assert apart[name].dtype == pooled[name].dtype
        np.testing.assert_allclose(apart[name], pooled[name], rtol=1e-12)
