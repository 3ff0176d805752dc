import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from fedsc import evaluate
from fedsc.evaluate import METRICS, kmeans, rare_type_f1, scores


@pytest.fixture(scope="module")
def blobs():
    x, y = make_blobs(300, 6, centers=4, cluster_std=0.8, random_state=3)
    return x, np.array(["B", "T", "NK", "mono"])[y]


def test_kmeans_is_scikit_learns_with_ten_starts(blobs):
    x, _ = blobs
    expected = KMeans(7, n_init=10, random_state=5).fit_predict(x)
    np.testing.assert_array_equal(kmeans(x, 7, seed=5), expected)


def test_kmeans_finds_blobs(blobs):
    x, labels = blobs
    assert metrics.adjusted_rand_score(labels, kmeans(x, 4, seed=0)) == 1


def test_kmeans_of_one_cluster(blobs):
    assert kmeans(blobs[0], 1, seed=0).tolist() == [0] * 300


@pytest.mark.parametrize("k", [0, 301])
def test_kmeans_refuses_a_number_out_of_range(blobs, k):
    with pytest.raises(ValueError, match="n_clusters"):
        kmeans(blobs[0], k, seed=0)


def test_scores_are_scikit_learns(blobs):
    x, labels = blobs
    clusters = np.random.default_rng(0).integers(0, 5, 300)
    assert scores(x, clusters, labels) == pytest.approx(
        {
            "ari": metrics.adjusted_rand_score(labels, clusters),
            "nmi": metrics.normalized_mutual_info_score(labels, clusters),
            "rare_f1": rare_type_f1(metrics.cluster.contingency_matrix(labels, clusters)),
            "silhouette": metrics.silhouette_score(x, clusters),
            "calinski_harabasz": metrics.calinski_harabasz_score(x, clusters),
        },
        rel=1e-12,
    )


def test_cells_without_a_label_count_in_the_shape_alone(blobs):
    x, labels = blobs
    clusters, some = kmeans(x, 4, seed=0), labels.copy()
    some[::3] = ""
    found, whole, known = scores(x, clusters, some), scores(x, clusters, labels), some != ""
    assert found["silhouette"] == whole["silhouette"]
    assert found["calinski_harabasz"] == whole["calinski_harabasz"]
    assert found["ari"] == metrics.adjusted_rand_score(labels[known], clusters[known])
    assert found["rare_f1"] == scores(x[known], clusters[known], labels[known])["rare_f1"]
    assert scores(x, clusters, np.full(300, ""))["ari"] is None


def test_scores_are_named_and_of_plain_floats(blobs):
    x, labels = blobs
    found = scores(x, kmeans(x, 4, seed=0), labels)
    assert tuple(found) == METRICS
    assert {type(value) for value in found.values()} == {float}
    assert found["ari"] == found["nmi"] == 1


def test_rare_types_by_every_cluster_in_turn():
    rng = np.random.default_rng(3)
    labels, clusters = rng.choice(list("abcde"), 200, p=[0.5, 0.3, 0.1, 0.06, 0.04]), None
    clusters = np.where(rng.random(200) < 0.7, np.unique(labels, return_inverse=True)[1], 0)
    best = {
        kind: max(metrics.f1_score(labels == kind, clusters == one) for one in range(5))
        for kind in "cde"
    }
    found = rare_type_f1(metrics.cluster.contingency_matrix(labels, clusters))
    assert found == pytest.approx(np.mean(list(best.values())))


def test_rare_types_of_few_and_of_none():
    assert rare_type_f1(np.array([[4, 0], [0, 3], [0, 0]])) == 1
    assert rare_type_f1(np.array([[2, 2]])) == pytest.approx(2 / 3)
    assert rare_type_f1(np.zeros((2, 3), dtype=int)) is None
    assert rare_type_f1(np.zeros((0, 0), dtype=int)) is None


def test_scores_without_labels(blobs):
    x, _ = blobs
    found = scores(x, kmeans(x, 4, seed=0), None)
    assert found["ari"] is None
    assert found["nmi"] is None
    assert found["silhouette"] == pytest.approx(metrics.silhouette_score(x, kmeans(x, 4, seed=0)))


def test_the_silhouette_of_many_cells_is_that_of_a_sample_which_is_said(blobs, monkeypatch):
    x, labels = blobs
    clusters = kmeans(x, 4, seed=0)
    whole = scores(x, clusters, labels)
    monkeypatch.setattr(evaluate, "SILHOUETTE_CELLS", 120)
    found = scores(x, clusters, labels)
    rows = evaluate.silhouette_rows(300)
    assert found.pop("silhouette_sampled_from") == 300
    assert len(set(rows)) == 120
    assert found["silhouette"] == metrics.silhouette_score(x[rows], clusters[rows])
    assert found["silhouette"] == pytest.approx(whole["silhouette"], abs=0.05)
    assert found | {"silhouette": None} == whole | {"silhouette": None}
    assert scores(x, clusters, labels)["silhouette"] == found["silhouette"]  # the same sample


def test_all_cells_count_up_to_the_limit():
    limit = evaluate.SILHOUETTE_CELLS
    assert len(evaluate.silhouette_rows(limit)) == limit == len(evaluate.silhouette_rows(limit + 1))


def test_a_sample_that_lost_all_clusters_but_one_has_no_silhouette(blobs, monkeypatch):
    x, _ = blobs
    monkeypatch.setattr(evaluate, "SILHOUETTE_CELLS", 120)
    outside = np.setdiff1d(np.arange(300), evaluate.silhouette_rows(300))[0]
    found = scores(x, (np.arange(300) == outside).astype(int), None)
    assert found["silhouette"] is None
    assert found["silhouette_sampled_from"] == 300


@pytest.mark.parametrize("clusters", [np.zeros(300, dtype=int), np.arange(300)])
def test_scores_without_separation(blobs, clusters):
    x, labels = blobs
    found = scores(x, clusters, labels)
    assert found["silhouette"] is None
    assert found["calinski_harabasz"] is None
    assert found["ari"] == metrics.adjusted_rand_score(labels, clusters)
