import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.datasets import make_blobs

from fedsc.errors import DataError
from fedsc.evaluate import rare_type_f1
from fedsc.federated.answers import answer
from fedsc.federated.kmeans import assign, learn_kmeans
from fedsc.federated.metrics import (
    Embedded,
    ari_from_contingency,
    calinski_harabasz_from_spread,
    contingency,
    learn_scores,
    nmi_from_contingency,
    silhouette_from_spread,
    spread,
)
from fedsc.federated.query import add, ask_locally

codes = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)
VOCABULARY = np.array(["d", "b", "never seen", "a", "c"])


def blobs(seed=0, cells=400, spread=1.5):
    x, y = make_blobs(cells, 4, centers=5, cluster_std=spread, random_state=seed)
    return x, np.array(["B", "T", "NK", "mono", "platelet"])[y]


def means_of(x, clusters):
    return np.stack([x[clusters == c].mean(axis=0) for c in range(clusters.max() + 1)])


@given(codes, st.integers(0, 60))
def test_agreement_equals_scikit_learn(codes, cut):
    labels, clusters = np.array(codes[0]), np.array(codes[1])
    table = add(
        [
            contingency(labels[:cut], clusters[:cut], VOCABULARY, 5),
            contingency(labels[cut:], clusters[cut:], VOCABULARY, 5),
        ]
    )["table"]
    ari, nmi = ari_from_contingency(table), nmi_from_contingency(table)
    assert ari == pytest.approx(metrics.adjusted_rand_score(labels, clusters), abs=1e-12)
    assert nmi == pytest.approx(metrics.normalized_mutual_info_score(labels, clusters), abs=1e-12)


def test_agreement_of_a_million_cells():
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 12, 1_000_000), rng.integers(0, 12, 1_000_000)
    clusters = np.where(rng.random(1_000_000) < 0.6, labels, noise)
    table = np.bincount(labels * 12 + clusters, minlength=144).reshape(12, 12)
    expected = metrics.adjusted_rand_score(labels, clusters)
    assert ari_from_contingency(table) == pytest.approx(expected, abs=1e-12)
    expected = metrics.normalized_mutual_info_score(labels, clusters)
    assert nmi_from_contingency(table) == pytest.approx(expected, abs=1e-12)


def test_agreement_does_not_overflow():
    table = np.array([[7, 3], [2, 8]]) * 10**9
    small = np.array([[7, 3], [2, 8]]) * 10**3
    assert ari_from_contingency(table) == pytest.approx(ari_from_contingency(small), abs=1e-3)
    assert nmi_from_contingency(table) == pytest.approx(nmi_from_contingency(small), abs=1e-12)


def test_contingency_counts_in_the_order_of_the_vocabulary():
    labels = np.array(["T", "B", "T", "T"], dtype=object)
    table = contingency(labels, np.array([0, 2, 2, 0]), np.array(["B", "NK", "T"]), 3)["table"]
    assert table.tolist() == [[0, 0, 1], [0, 0, 0], [2, 0, 1]]
    assert table.dtype == np.int64


def test_a_lab_without_labels_counts_nothing():
    table = contingency(None, np.array([0, 1]), np.array(["B", "T"]), 3)["table"]
    assert table.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_refuses_labels_outside_the_vocabulary():
    with pytest.raises(DataError, match=r"2 labels are not among the 1 .* 'NK'"):
        contingency(np.array(["B", "T", "NK"]), np.zeros(3, dtype=int), np.array(["B"]), 1)


@given(st.integers(0, 1000), st.integers(2, 8), st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_calinski_harabasz_equals_scikit_learn(seed, k, cut):
    x, _ = blobs(seed % 3)
    clusters = np.random.default_rng(seed).integers(0, k, len(x))
    about = np.random.default_rng(seed).standard_normal((k, 4))  # any points, not the means
    parts = [(x[:cut], clusters[:cut]), (x[cut:], clusters[cut:])]
    total = add([spread(cells, own, about) for cells, own in parts])
    expected = metrics.calinski_harabasz_score(x, clusters)
    assert calinski_harabasz_from_spread(total, about) == pytest.approx(expected, rel=1e-9)


def test_calinski_harabasz_ignores_an_empty_cluster():
    x, _ = blobs()
    clusters = np.repeat([0, 2], 200)
    about = np.zeros((3, 4))
    expected = metrics.calinski_harabasz_score(x, clusters)
    assert calinski_harabasz_from_spread(spread(x, clusters, about), about) == pytest.approx(
        expected, rel=1e-9
    )


def test_calinski_harabasz_of_points_on_their_means_is_one():
    x = np.repeat([[0.0], [3.0]], 4, axis=0)
    clusters = np.repeat([0, 1], 4)
    means = np.array([[0.0], [3.0]])
    assert metrics.calinski_harabasz_score(x, clusters) == 1
    assert calinski_harabasz_from_spread(spread(x, clusters, means), means) == 1


def slow_simplified_silhouette(x, clusters, means):
    values = []
    for cell, own in zip(x, clusters, strict=True):
        a = np.linalg.norm(cell - means[own])
        b = min(np.linalg.norm(cell - m) for i, m in enumerate(means) if i != own)
        alone = (clusters == own).sum() == 1
        values.append(0.0 if alone or max(a, b) == 0 else (b - a) / max(a, b))
    return np.mean(values)


@pytest.mark.parametrize("seed", range(4))
def test_simplified_silhouette_equals_the_slow_loop(seed):
    x, _ = blobs(seed)
    clusters = np.random.default_rng(seed).integers(0, 6, len(x))
    clusters[0] = 6  # alone
    means = means_of(x, clusters)
    total = add([spread(x[:7], clusters[:7], means), spread(x[7:], clusters[7:], means)])
    expected = slow_simplified_silhouette(x, clusters, means)
    assert silhouette_from_spread(total) == pytest.approx(expected, abs=1e-12)


def test_simplified_silhouette_of_equal_means_is_zero():
    x, clusters = np.zeros((4, 2)), np.array([0, 0, 1, 1])
    assert silhouette_from_spread(spread(x, clusters, np.zeros((2, 2)))) == 0


def test_spread_of_more_than_a_batch():
    x, _ = blobs(cells=5000)
    clusters = np.arange(5000) % 3
    means = means_of(x, clusters)
    total = spread(x, clusters, means)
    assert total["n"].tolist() == [1667, 1667, 1666]
    np.testing.assert_allclose(total["sum"], 0, atol=1e-8)
    within = [np.square(x[clusters == c] - means[c]).sum() for c in range(3)]
    np.testing.assert_allclose(total["squares"], within, rtol=1e-10)


def ask_of(x, labels, parts=3):
    labs = [
        Embedded(x[rows], None if labels is None else labels[rows])
        for rows in np.array_split(np.arange(len(x)), parts)
    ]
    return ask_locally(labs, answer)


def test_scores_of_the_pool_equal_scikit_learn():
    x, labels = blobs(spread=4.0)
    found = learn_kmeans(
        ask_locally([Embedded(x[:150], None), Embedded(x[150:], None)], answer), 5, 0
    )
    scores = learn_scores(ask_of(x, labels), found, np.unique(labels)[::-1])
    clusters = assign(found.centres, x)
    assert scores == pytest.approx(
        {
            "ari": metrics.adjusted_rand_score(labels, clusters),
            "nmi": metrics.normalized_mutual_info_score(labels, clusters),
            "rare_f1": rare_type_f1(metrics.cluster.contingency_matrix(labels, clusters)),
            "simplified_silhouette": slow_simplified_silhouette(x, clusters, found.centres),
            "calinski_harabasz": metrics.calinski_harabasz_score(x, clusters),
        },
        rel=1e-9,
    )


def test_scores_count_labelled_cells_alone():
    x, labels = blobs(spread=4.0)
    labs = [Embedded(x[:250], labels[:250]), Embedded(x[250:], None)]
    found = learn_kmeans(ask_locally([Embedded(x, None)], answer), 5, 0)
    scores = learn_scores(ask_locally(labs, answer), found, np.unique(labels))
    clusters = assign(found.centres, x)
    assert scores["ari"] == pytest.approx(
        metrics.adjusted_rand_score(labels[:250], clusters[:250]), abs=1e-12
    )
    assert scores["calinski_harabasz"] == pytest.approx(
        metrics.calinski_harabasz_score(x, clusters), rel=1e-9
    )


@pytest.mark.parametrize("vocabulary", [np.array([], dtype=str), np.array(["B", "T"])])
def test_scores_without_labels(vocabulary):
    x, _ = blobs()
    found = learn_kmeans(ask_locally([Embedded(x, None)], answer), 3, 0)
    scores = learn_scores(ask_of(x, None), found, vocabulary)
    assert scores["ari"] is None
    assert scores["nmi"] is None
    assert scores["calinski_harabasz"] > 0


def test_scores_of_one_cluster():
    x, labels = blobs()
    found = learn_kmeans(ask_locally([Embedded(x, None)], answer), 1, 0)
    scores = learn_scores(ask_of(x, labels), found, np.unique(labels))
    assert scores == {
        "ari": 0.0,
        "nmi": 0.0,
        "rare_f1": rare_type_f1(metrics.cluster.contingency_matrix(labels, np.zeros(len(x)))),
        "simplified_silhouette": None,
        "calinski_harabasz": None,
    }


@pytest.mark.parametrize("vocabulary", [[], ["B", "NK", "T", "mono", "platelet"]])
def test_scores_are_one_question(vocabulary):
    x, labels = blobs()
    found, asked = learn_kmeans(ask_locally([Embedded(x, None)], answer), 5, 0), []

    def ask(question):
        asked.append(question.name)
        return ask_of(x, labels)(question)

    learn_scores(ask, found, vocabulary)
    assert len(asked) == 1
