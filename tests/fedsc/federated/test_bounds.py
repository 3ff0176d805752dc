"""Honest answers are possible; what no cells can add up to is refused, whatever the question."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsc.data.aligned import align
from fedsc.data.preprocess import transform
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated import answers, harmony_lab, mixing
from fedsc.federated.annotation import learn_types
from fedsc.federated.bounds import Asked
from fedsc.federated.clustered import Clustered
from fedsc.federated.correction import BatchedCells
from fedsc.federated.graph import learn_graph
from fedsc.federated.harmony import learn_harmony, learn_start
from fedsc.federated.kmeans import assign, learn_kmeans
from fedsc.federated.markers import learn_markers
from fedsc.federated.metrics import Embedded, learn_scores
from fedsc.federated.mixing import learn_mixing
from fedsc.federated.pca import learn_pca
from fedsc.federated.preprocessing import fit_preprocessing, learn_preprocessing
from fedsc.federated.quality import learn_kept, learn_thresholds
from fedsc.federated.query import SEVERAL, Question, add, parts
from fedsc.options import DataOptions
from fedsc.tensors import by_owner


class Said(list):
    """Answers, too long to print."""

    def __repr__(self):
        return f"{len(self)} answers"


class Pool:
    """Labs in this process whose every answer is held against what is possible."""

    def __init__(self):
        self.said = Said()  # honest answers: sums, asked, before

    def ask(self, labs, answer=answers.answer):
        before = {}

        def ask(question):
            answered = []
            for i, (lab, n_cells) in enumerate(labs):
                sums, asked = answer(lab, question), Asked(question, n_cells, 12.0)
                place = i, question.name
                assert answers.implausible(sums, asked, before.get(place)) == "", question.name
                if question.name == SEVERAL:
                    told = by_owner(sums)
                    for part in parts(question):
                        self.said.append((told[part.name], Asked(part, n_cells, 12.0), None))
                else:
                    self.said.append((sums, asked, before.get(place)))
                before[place] = sums, asked
                answered.append(sums)
            return add(answered)

        return ask


@pytest.fixture(scope="module")
def said(tiny_set):
    """Ask two labs everything a server asks; give all they said."""
    whole, pool = read(tiny_set, ReadAs(label_key="cell_type")), Pool()
    options = DataOptions(n_genes=30, min_shared_genes=10)
    halves = [whole.subset(np.arange(0, 60)), whole.subset(np.arange(60, 96))]
    preprocessing = fit_preprocessing([whole], options)
    vocabulary, types = whole.genes, sorted(set(whole.labels))

    def labs(of):
        return [(of(part), len(part.cells)) for part in halves]

    expression = pool.ask(labs(lambda part: align(part, vocabulary)))
    learn_preprocessing(expression, vocabulary, "counts", options)
    zeros = np.zeros(len(vocabulary))
    expression(
        Question("gene-moments", {"target_sum": np.array([9.0]), "counts": zeros, "linear": zeros})
    )
    limits = learn_thresholds(expression, vocabulary, min_genes="mad", min_counts="mad")
    learn_kept(expression, vocabulary, limits)
    detected = np.ones(len(vocabulary))
    expression(Question("clipped-squares", {"mean": detected, "clip": 9.0 * detected}))

    learn_pca(pool.ask(labs(lambda part: transform(part, preprocessing))), 5)

    rng = np.random.default_rng(0)
    x = {len(part.cells): rng.normal(size=(len(part.cells), 4)) for part in halves}
    embedded = [(Embedded(x[n].astype(np.float32), p.labels), n) for p, n in labs(lambda p: p)]
    embedding = pool.ask(embedded)
    found = learn_kmeans(embedding, 3, 0)
    learn_scores(embedding, found, types)
    learn_graph(embedding, (0.5, 1.0), 0, vocabulary=types)

    clustered = pool.ask(
        labs(
            lambda p: Clustered(
                align(p, vocabulary), assign(found.centres, x[len(p.cells)]), p.labels
            )
        )
    )
    learn_markers(clustered, 3, preprocessing.target_sum)
    learn_types(clustered, types, 3)

    batched = [BatchedCells(x[n], np.zeros(n, dtype=np.int64)) for _, n in embedded]
    states = {}

    def integrate(i, question):
        if question.name == mixing.MIXING:
            state = states.get(i)
            return mixing.sum_mixing(batched[i], state and state.corrected, question)
        sums, states[i] = harmony_lab.answer(batched[i], states.get(i), question)
        return sums

    integration = pool.ask([(i, len(b.x)) for i, b in enumerate(batched)], integrate)
    start = learn_start(integration, 96, 0)
    learn_mixing(integration, start)
    learn_mixing(integration, learn_harmony(integration, 96, start).centres)
    return pool.said


def test_every_question_has_a_check(said):
    questions = {name for of in answers._ANSWERS.values() for name in of}
    questions |= {*harmony_lab._STEPS, mixing.MIXING}
    assert questions == set(answers.CHECKS)
    assert questions == {asked.question.name for _, asked, _ in said}  # and is lied to below


_LIES = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _lie(said, seed, number):
    """Put a number into one place of one honest answer."""
    rng = np.random.default_rng(seed)
    floats = [
        (one, name)
        for one in said
        for name, array in one[0].items()
        if array.size and array.dtype.kind == "f"
    ]
    (sums, asked, before), name = floats[rng.integers(len(floats))]
    array = sums[name].copy()
    array.reshape(-1)[rng.integers(array.size)] = number
    return {**sums, name: array}, asked, before


@_LIES
@given(st.integers(0, 2**32), st.floats(1e25, 1e307), st.sampled_from([-1, 1]))
def test_a_huge_number_is_refused_in_every_answer_and_place(said, seed, number, sign):
    assert answers.implausible(*_lie(said, seed, sign * number))


@_LIES
@given(st.integers(0, 2**32), st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_believed_cannot_overflow_a_sum_over_labs(said, seed, number):
    sums, asked, before = _lie(said, seed, number)
    if not answers.implausible(sums, asked, before):
        total = add([sums] * 1000)
        assert all(np.isfinite(np.square(part.astype(float))).all() for part in total.values())


_OF_ALL_CELLS = {
    "kmeans-mean": "n",
    "kmeans-step": "n",
    "micro-mean": "n",
    "micro-step": "n",
    "pca-mean": "n",
    "spread": "n",
    "graph-tally": "sizes",
    "mixing": "cells",
    "quality-passing": "cells",
}
"""Counts that tell of every cell of the lab."""


@pytest.mark.parametrize(("question", "name"), _OF_ALL_CELLS.items())
@pytest.mark.parametrize("off", [-1, 1, 10**6])
def test_a_lab_has_as_many_cells_in_every_question(said, question, name, off):
    found = [one for one in said if one[1].question.name == question]
    assert found
    for sums, asked, before in found:
        counts = sums[name].copy()
        counts.reshape(-1)[0] += off
        wrong = answers.implausible({**sums, name: counts}, asked, before)
        assert "adds up to" in wrong


@pytest.mark.parametrize("question", ["library-sizes", "quality-deviations"])
def test_a_histogram_that_contradicts_the_one_before_is_refused(said, question):
    found = [one for one in said if one[1].question.name == question and one[2]]
    assert found
    contradictions = 0
    for sums, asked, before in found:
        for name, counts in sums.items():
            if counts.size > 1 and counts.sum():
                lie = np.zeros_like(counts)
                lie[0 if counts[-1] else -1] = counts.sum()  # as many cells, elsewhere
                if not np.array_equal(lie, counts):
                    wrong = answers.implausible({**sums, name: lie}, asked, before)
                    contradictions += "contradicts" in wrong
    assert contradictions > 1


def _one(said, question):
    return next(one for one in said if one[1].question.name == question)


@pytest.mark.parametrize(
    ("question", "change", "words"),
    [
        ("gene-moments", {"log-square": -1.0}, "sum of squares"),
        ("gene-moments", {"detected": 10**6}, "detected"),
        ("kmeans-mean", {"squares": 0.0}, "for its squares"),
        ("kmeans-step", {"squares": 0.0}, "for its squares"),
        ("pca-scatter", {"scatter": -1.0}, "diagonal"),
        ("spread", {"silhouette": 97.0}, "silhouette is 97"),
        ("spread", {"silhouette": -97.0}, "silhouette is -97"),
        ("contingency", {"table": 97}, "total of table"),
        ("types", {"table": 97}, "total of table"),
        ("markers", {"measured": 2}, "measured is 2"),
        ("markers", {"supporting": 2}, "supporting is 2"),
        ("markers", {"square": -1.0}, "sum of squares"),
        ("library-sizes", {"size": 97}, "total of size"),
        ("graph-links", {"links": -1.0}, "links is -1"),
        ("harmony-cluster", {"sizes": 97.0}, "total of sizes"),
    ],
)
def test_a_lie_is_said_in_words(said, question, change, words):
    sums, asked, before = _one(said, question)
    for name, value in change.items():
        array = sums[name].copy()
        array.reshape(-1)[0] = value
        sums = {**sums, name: array}
    assert words in answers.implausible(sums, asked, before)


def test_a_scatter_that_is_none_is_refused(said):
    sums, asked, _ = _one(said, "pca-scatter")
    lopsided, crossed = sums["scatter"].copy(), sums["scatter"].copy()
    lopsided[0, 1] += 0.1 * lopsided[0, 0]
    crossed[0, 1] = crossed[1, 0] = 1.1 * np.sqrt(crossed[0, 0] * crossed[1, 1])
    assert "not symmetric" in answers.implausible({"scatter": lopsided}, asked)
    assert "a product in scatter" in answers.implausible({"scatter": crossed}, asked)
