import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from fedsc.errors import ConfigError, RunError
from fedsc.federated.answers import answer
from fedsc.federated.kmeans import MEAN, STEP, assign, learn_kmeans, lloyd
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import Question, ask_locally


def cloud(seed, cells=600, d=5, centres=6, spread=2.5):
    x, _ = make_blobs(cells, d, centers=centres, cluster_std=spread, random_state=seed)
    return x


def ask_of(*parts):
    return ask_locally([Embedded(x, None) for x in parts], answer)


def tolerance(x):
    return 1e-4 * x.var(axis=0).mean()


def partition(clusters):
    """Name clusters in order of appearance, so that equal partitions are equal arrays."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def pooled(x, start):
    return KMeans(len(start), init=start, n_init=1, algorithm="lloyd").fit(x)


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(0, 600))
@settings(max_examples=25, deadline=None)
def test_iterates_as_scikit_learn_on_the_pool(seed, k, cut):
    x = cloud(seed % 7)
    start = x[np.random.default_rng(seed).choice(len(x), k, replace=False)]
    reference = pooled(x, start)
    (found,) = lloyd(ask_of(x[:cut], x[cut:]), start[None], tolerance(x))
    clusters = assign(found.centres, x)
    np.testing.assert_array_equal(partition(clusters), partition(reference.labels_))
    assert found.iterations == reference.n_iter_
    assert found.inertia == pytest.approx(reference.inertia_, rel=1e-10)
    np.testing.assert_array_equal(found.sizes, np.bincount(clusters, minlength=k))
    order = np.lexsort((*reference.cluster_centers_.T[::-1], -np.bincount(reference.labels_)))
    np.testing.assert_allclose(found.centres, reference.cluster_centers_[order], atol=1e-9)


def test_iterates_as_scikit_learn_far_from_the_origin():
    x = cloud(0) + 1e5
    start = x[:6]
    (found,) = lloyd(ask_of(x[:100], x[100:]), start[None], tolerance(x))
    reference = pooled(x, start)
    np.testing.assert_array_equal(partition(assign(found.centres, x)), partition(reference.labels_))
    assert found.inertia == pytest.approx(reference.inertia_, rel=1e-9)


def test_stops_after_the_most_iterations():
    x = cloud(1)
    (found,) = lloyd(ask_of(x), x[None, :6], 0.0, max_iterations=2)
    assert found.iterations == 2


def test_every_iteration_is_told():
    told = []
    x = cloud(0)
    (found,) = lloyd(ask_of(x), x[None, :6], tolerance(x), report=lambda *t: told.append(t))
    iterations, moved, ends = zip(*told, strict=True)
    assert iterations == tuple(range(1, found.iterations + 1))
    assert moved[-1] <= ends[-1] == tolerance(x)
    assert all(m > tolerance(x) for m in moved[:-1])


def test_more_than_a_batch_of_cells_sums_the_same():
    x = cloud(2, cells=5000)
    centres = x[:8].reshape(2, 4, 5)
    sums = answer(Embedded(x, None), Question(STEP, {"centres": centres}))
    assert sums["n"].dtype == np.int64
    for i in range(2):
        distances = np.linalg.norm(x[:, None] - centres[i], axis=2)
        for j in range(4):
            own = x[distances.argmin(axis=1) == j]
            assert sums["n"][i, j] == len(own)
            np.testing.assert_allclose(sums["sum"][i, j], own.sum(axis=0), rtol=1e-9)
            np.testing.assert_allclose(
                sums["squares"][i, j], np.square(own - centres[i, j]).sum(axis=0), rtol=1e-9
            )


def test_the_first_answer_counts_and_sums():
    x = cloud(3).astype(np.float32)
    sums = answer(Embedded(x, None), Question(MEAN))
    assert sums["n"].tolist() == [600]
    wide = x.astype(np.float64)
    np.testing.assert_allclose(sums["sum"], wide.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sums["squares"], np.square(wide).sum(axis=0), rtol=1e-12)


def test_a_lab_without_cells_adds_nothing():
    x = cloud(4)
    one, two = learn_kmeans(ask_of(x), 4, 0), learn_kmeans(ask_of(x, x[:0]), 4, 0)
    assert one.centres.tobytes() == two.centres.tobytes()


def test_finds_blobs():
    x, labels = make_blobs(800, 8, centers=12, cluster_std=0.5, random_state=5)
    for seed in range(3):
        found = learn_kmeans(ask_of(x[:100], x[100:500], x[500:]), 12, seed)
        np.testing.assert_array_equal(partition(assign(found.centres, x)), partition(labels))


@pytest.mark.parametrize("seed", range(3))
def test_starts_as_well_as_ten_runs_of_kmeans_plus_plus(seed):
    x = cloud(6, cells=1500, d=10, centres=15, spread=6.0)
    found = learn_kmeans(ask_of(x[:700], x[700:]), 15, seed)
    reference = KMeans(15, n_init=10, random_state=seed).fit(x)
    assert found.inertia < 1.02 * reference.inertia_


@pytest.mark.parametrize("name", ["mouse_bladder_2746_top2003", "10x_pbmc_4271_top2000"])
def test_starts_as_well_as_ten_runs_of_kmeans_plus_plus_on_real_cells(real_data, name):
    import anndata

    data = anndata.read_h5ad(real_data(name))
    counts = data.X.toarray().astype(np.float64)
    log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    log = log[:, np.argsort(-log.var(axis=0))[:300]]
    x = PCA(20, svd_solver="full").fit_transform(log)
    labels = data.obs["cell_type"].astype(str).to_numpy()
    k = len(np.unique(labels))
    labs = np.array_split(np.argsort(labels, kind="stable"), 4)
    found = learn_kmeans(ask_of(*(x[lab] for lab in labs)), k, 0)
    reference = KMeans(k, n_init=10, random_state=0).fit(x)
    assert found.inertia < 1.01 * reference.inertia_


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 400), max_size=4))
@settings(max_examples=5, deadline=None)
def test_how_cells_are_split_does_not_matter(seed, cuts):
    x = cloud(7, cells=400, centres=5)
    order = np.random.default_rng(seed).permutation(400)
    whole = learn_kmeans(ask_of(x), 5, seed)
    split = learn_kmeans(ask_of(*np.split(x[order], sorted(cuts))), 5, seed)
    np.testing.assert_allclose(split.centres, whole.centres, atol=1e-9)
    np.testing.assert_array_equal(split.sizes, whole.sizes)


def test_the_seed_decides():
    x = cloud(8, spread=8.0)
    first, again, other = (learn_kmeans(ask_of(x), 9, seed) for seed in (1, 1, 2))
    assert first.centres.tobytes() == again.centres.tobytes()
    assert first.centres.tobytes() != other.centres.tobytes()


def test_the_largest_cluster_comes_first():
    x = np.repeat([[0.0, 0], [5, 5], [0, 9], [0, 7]], [10, 40, 20, 20], axis=0)
    found = learn_kmeans(ask_of(x), 4, 0)
    assert found.sizes.tolist() == [40, 20, 20, 10]
    assert found.centres.tolist() == [[5, 5], [0, 7], [0, 9], [0, 0]]
    assert found.inertia == 0


def test_one_cluster_is_the_mean():
    x = cloud(9)
    found = learn_kmeans(ask_of(x), 1, 0)
    np.testing.assert_allclose(found.centres, [x.mean(axis=0)])
    assert found.inertia == pytest.approx(len(x) * x.var(axis=0).sum())


def test_as_many_clusters_as_cells():
    x = cloud(10, cells=12)
    found = learn_kmeans(ask_of(x[:5], x[5:]), 12, 0)
    assert found.sizes.sum() == 12
    assert np.isfinite(found.centres).all()


def test_an_empty_centre_takes_half_of_the_widest_cluster():
    x = np.array([[-4.0, 0], [-2, 0], [2, 0], [4, 0], [100, 1], [100, 0]])
    start = np.array([[0.0, 0], [100, 0], [0, 1000]])
    (found,) = lloyd(ask_of(x[:3], x[3:]), start[None], 0.0)
    assert found.centres.tolist() == [[-3, 0], [3, 0], [100, 0.5]]
    assert found.sizes.tolist() == [2, 2, 2]


def test_fewer_different_cells_than_clusters_make_fewer_clusters():
    x = np.repeat([[0.0, 0], [1, 1]], [3, 5], axis=0)
    found = learn_kmeans(ask_of(x), 4, 0)
    assert found.sizes.tolist() == [5, 3]
    np.testing.assert_allclose(found.centres, [[1, 1], [0, 0]], atol=1e-12)
    assert found.inertia == pytest.approx(0, abs=1e-20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert KMeans(4, n_init=1, random_state=0).fit(x).inertia_ == 0


def test_equal_cells_make_one_cluster():
    found = learn_kmeans(ask_of(np.ones((50, 3))), 20, 0)
    assert found.sizes.tolist() == [50]
    assert found.inertia == 0
    assert found.iterations < 5


def test_assign_takes_the_first_of_equally_near_centres():
    centres = np.array([[0.0], [2.0], [2.0]])
    clusters = assign(centres, np.array([[-1.0], [1.0], [1.5]], dtype=np.float32))
    assert clusters.tolist() == [0, 0, 1]
    assert clusters.dtype == np.int32


def test_assign_equals_the_plain_search():
    x, centres = cloud(11, cells=5000), cloud(12, cells=7)
    slow = np.linalg.norm(x[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(assign(centres, x), slow)


def test_few_questions_and_none_about_single_cells():
    x = cloud(13, centres=8)
    asked = []

    def ask(question):
        asked.append(question)
        return answer(Embedded(x, None), question)

    found = learn_kmeans(ask, 8, 0)
    assert len(asked) <= 11 + found.iterations
    assert all(q.arrays["centres"].shape[1] <= 16 for q in asked if q.name == STEP)


@pytest.mark.parametrize("k", [-1, 0, 11])
def test_refuses_a_number_of_clusters_out_of_range(k):
    with pytest.raises(ConfigError, match=f"k = {k}: must be from 1 to the number of cells, 10"):
        learn_kmeans(ask_of(cloud(14, cells=10)), k, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_values_that_are_not_finite(value):
    x = cloud(15)
    x[3, 2] = value
    with pytest.raises(RunError, match="not finite"):
        learn_kmeans(ask_of(x), 3, 0)
