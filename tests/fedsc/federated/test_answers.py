"""A lab without cells answers every question with the names, shapes and types all labs use."""

import numpy as np
import pytest

from fedsc.data.aligned import align
from fedsc.data.preprocess import transform
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated import annotation, graph, kmeans, markers, metrics, micro, pca, quality
from fedsc.federated.answers import answer, no_cells, no_clusters, no_embedding, no_expression
from fedsc.federated.clustered import Clustered
from fedsc.federated.metrics import Embedded
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.federated.query import Question

VOCABULARY = np.frombuffer(b"type0\ntype1\ntype2\ntype3", dtype=np.uint8)
NODES = {"centres": np.eye(5, 4), "sets": np.array([0, 0, 0, 1, 1]), "scale": np.array([0.3])}
COMMUNITIES = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 2, 2]])


@pytest.fixture(scope="module")
def expression(tiny_set):
    return read(tiny_set, ReadAs(label_key="cell_type"))


def _form(sums):
    return {name: (array.shape, array.dtype) for name, array in sums.items()}


def _same(nothing, something, question):
    none, some = answer(nothing, question), answer(something, question)
    assert _form(none) == _form(some)
    assert all(not array.any() for array in none.values())
    assert any(array.any() for array in some.values())


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("library-sizes", {"size": np.array([0, 2**62, 2**63 - 1])}),
        ("gene-moments", {"target_sum": np.array([9.0]), "log": np.zeros(60)}),
        ("gene-moments", {"target_sum": np.array([9.0]), "counts": np.zeros(60)}),
        ("clipped-squares", {"mean": np.zeros(60), "clip": np.full(60, 9.0)}),
        (
            quality.DEVIATIONS,
            {
                "mitochondrial": np.arange(60) < 5,
                "centres": np.zeros(3),
                "max_mito": np.array([0, 2**63 - 1]),
            },
        ),
        (
            quality.PASSING,
            {
                "mitochondrial": np.arange(60) < 5,
                "min_genes": np.array([30.0]),
                "min_counts": np.array([0.0]),
                "max_mito": np.array([0.2]),
            },
        ),
    ],
)
def test_of_expression(expression, name, arrays):
    vocabulary = expression.genes
    nothing = no_expression(vocabulary, expression.kind)
    _same(nothing, align(expression, vocabulary), Question(name, arrays))


@pytest.mark.parametrize(
    ("name", "arrays"), [(pca.MEAN, {}), (pca.SCATTER, {"shift": np.full(30, 0.1)})]
)
def test_of_cells(expression, tiny, name, arrays):
    preprocessing = fit_preprocessing([expression], tiny.data)
    cells = transform(expression, preprocessing)
    assert no_cells(preprocessing).batch(np.arange(0)).shape == (0, 30)
    _same(no_cells(preprocessing), cells, Question(name, arrays))


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        (kmeans.MEAN, {}),
        (kmeans.STEP, {"centres": np.eye(3, 4)[None]}),
        (
            metrics.CONTINGENCY,
            {
                "centres": np.eye(3, 4),
                "vocabulary": VOCABULARY,
            },
        ),
        (
            metrics.SPREAD,
            {"centres": np.eye(3, 4)},
        ),
        (micro.MEAN, {}),
        (micro.STEP, {"centres": np.eye(3, 4)[None]}),
        (micro.SCALE, {"centres": NODES["centres"], "sets": NODES["sets"]}),
        (graph.LINKS, NODES),
        (graph.TALLY, {**NODES, "communities": COMMUNITIES}),
        (graph.TALLY, {**NODES, "communities": COMMUNITIES[:1]}),
        (graph.CONTINGENCY, {**NODES, "communities": COMMUNITIES, "vocabulary": VOCABULARY}),
    ],
)
def test_of_embedding(expression, name, arrays):
    x = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
    _same(no_embedding(4), Embedded(x, expression.labels), Question(name, arrays))


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        (markers.MARKERS, {"target_sum": np.array([9.0]), "k": np.array([3])}),
        (
            annotation.TYPES,
            {
                "k": np.array([3]),
                "vocabulary": VOCABULARY,
            },
        ),
    ],
)
def test_of_clusters(expression, name, arrays):
    cells = align(expression, expression.genes)
    something = Clustered(cells, np.arange(96) % 3, expression.labels)
    nothing = no_clusters(expression.genes, expression.kind)
    _same(nothing, something, Question(name, arrays))


def test_every_question_about_an_embedding_is_tried_above():
    (mark,) = test_of_embedding.pytestmark
    asked = {*kmeans.ANSWERS, *metrics.ANSWERS, *micro.ANSWERS, *graph.ANSWERS}
    assert {name for name, _ in mark.args[1]} == asked


@pytest.mark.parametrize("data", ["expression", "cells", "embedding", "clusters"])
def test_a_question_there_is_not_is_refused(expression, tiny, data):
    preprocessing = fit_preprocessing([expression], tiny.data)
    nothing = {
        "expression": no_expression(expression.genes, expression.kind),
        "cells": no_cells(preprocessing),
        "embedding": no_embedding(4),
        "clusters": no_clusters(expression.genes, expression.kind),
    }
    with pytest.raises(ValueError, match="unknown question 'weather', known are"):
        answer(nothing[data], Question("weather"))
