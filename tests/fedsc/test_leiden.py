import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn import metrics
from sklearn.datasets import make_blobs

from fedsc.errors import ConfigError, DataError
from fedsc.leiden import by_size, leiden, neighbour_graph


@pytest.fixture(scope="module")
def blobs():
    x, y = make_blobs(300, 6, centers=4, cluster_std=0.8, random_state=3)
    return x, y


def modularity(graph, clusters, resolution):
    """Newman's, from its definition."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    same = clusters[:, None] == clusters
    expected = resolution * np.outer(degree, degree) / degree.sum()
    return float(((graph.toarray() - expected) * same).sum() / degree.sum())


def slow_weights(distances):
    """Give one cell's weights by a root finder, distances to the others, ascending."""
    from scipy.optimize import brentq

    d = np.maximum(distances - distances[distances > 0][0], 0)
    target = np.log2(len(d) + 1)
    width = brentq(lambda s: np.exp(-d / s).sum() - target, 1e-9, 1e9)
    return np.exp(-d / max(width, 1e-3 * distances.sum() / (len(d) + 1)))


@pytest.mark.parametrize("neighbours", [15, 40])
def test_the_graph_against_a_loop(blobs, neighbours):
    x = blobs[0][:60]
    weights = np.zeros((60, 60))
    for i in range(60):
        distances = np.sqrt(((x - x[i]) ** 2).sum(axis=1))
        distances[i] = np.inf
        nearest = np.argsort(distances)[: neighbours - 1]
        weights[i, nearest] = slow_weights(distances[nearest])
    expected = weights + weights.T - weights * weights.T
    np.testing.assert_allclose(neighbour_graph(x, neighbours).toarray(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_graph_is_scanpys(blobs, dtype):
    import anndata
    import scanpy as sc

    x = np.repeat(blobs[0], 2, axis=0)[::3].astype(dtype)  # some cells twice
    cells = anndata.AnnData(np.empty((len(x), 0), dtype=np.float32), obsm={"X": x})
    sc.pp.neighbors(cells, n_neighbors=15, use_rep="X", transformer="sklearn")
    np.testing.assert_allclose(
        neighbour_graph(x).toarray(), cells.obsp["connectivities"].toarray(), atol=1e-5
    )


@given(
    n=st.integers(3, 40),
    d=st.integers(1, 4),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    copies=st.booleans(),
)
def test_the_graph_is_symmetric_with_weights_up_to_one(n, d, scale, copies):
    x = scale * np.random.default_rng(n).normal(size=(n, d))
    if copies:
        x[: n // 2] = x[0]
    graph = neighbour_graph(x)
    assert abs(graph - graph.T).max() == 0
    assert not graph.diagonal().any()
    assert (graph.data >= 0).all()
    assert (graph.data <= 1).all()
    assert (graph.sum(axis=1) > 0).all()


def test_blobs_are_found_and_the_same_seed_gives_the_same_clusters(blobs):
    x, labels = blobs
    clusters = leiden(x, resolution=0.1, seed=0)
    assert clusters.dtype == np.int64
    assert metrics.adjusted_rand_score(labels, clusters) == 1
    np.testing.assert_array_equal(leiden(x, resolution=0.1, seed=0), clusters)


def test_clusters_are_a_local_optimum_of_the_modularity_and_connected():
    """No cell moved alone into another cluster makes the modularity larger."""
    x = np.random.default_rng(0).normal(size=(90, 5))
    graph, resolution = neighbour_graph(x), 1.3
    clusters = leiden(x, resolution, seed=1)
    best = modularity(graph, clusters, resolution)
    for i in range(90):
        for j in range(clusters.max() + 2):
            moved = clusters.copy()
            moved[i] = j
            assert modularity(graph, moved, resolution) <= best + 1e-9
    for j in range(clusters.max() + 1):
        rows = np.flatnonzero(clusters == j)
        assert connected_components(graph[rows][:, rows], directed=False)[0] == 1


def test_a_higher_resolution_gives_more_clusters(blobs):
    coarse, fine = leiden(blobs[0], 0.1, seed=0), leiden(blobs[0], 3.0, seed=0)
    assert len(np.unique(fine)) > len(np.unique(coarse))
    sizes = np.bincount(fine)
    assert (np.diff(sizes) <= 0).all()


@pytest.mark.parametrize("n", [3, 6, 15, 16])
def test_fewer_cells_than_neighbours(blobs, n):
    assert leiden(blobs[0][:n], resolution=0.5, seed=0).shape == (n,)


def test_two_cells_are_too_few(blobs):
    with pytest.raises(DataError, match="needs at least 3 cells, and there are 2"):
        leiden(blobs[0][:2], resolution=0.5, seed=0)


def test_cells_that_are_all_alike_are_clustered_all_the_same():
    assert leiden(np.ones((40, 3)), resolution=0.5, seed=0).shape == (40,)


def test_the_embedding_stays_as_it_is(blobs):
    x = blobs[0].copy()
    leiden(x, resolution=0.5, seed=0)
    np.testing.assert_array_equal(x, blobs[0])


def test_clusters_are_numbered_by_size_then_by_first_cell():
    np.testing.assert_array_equal(by_size(np.array([7, 3, 3, 9, 7, 3, 9])), [1, 0, 0, 2, 1, 0, 2])


@pytest.mark.slow
def test_igraphs_clusters_are_as_good(real_data):
    """Both reach the same modularity within 0.5 %, on real cells."""
    from fedsc.baselines.inputs import prepare
    from fedsc.baselines.pca import dense, principal_components
    from fedsc.data.reading.read import read

    pytest.importorskip("igraph")
    cells, _ = prepare(read(real_data("baron_mouse_pancreas")), 1000, 10.0)
    x, _ = principal_components(dense(cells), 30, 0)
    graph = neighbour_graph(x)
    ours, theirs = (
        np.mean([modularity(graph, leiden(x, 1.0, seed, flavor), 1.0) for seed in range(3)])
        for flavor in ("graspologic", "igraph")
    )
    assert ours == pytest.approx(theirs, rel=5e-3)


def test_a_missing_igraph_says_what_to_install(blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedsc\[igraph\]'.*flavor = 'graspologic'"):
        leiden(blobs[0], 0.5, 0, "igraph")
