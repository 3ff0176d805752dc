import numpy as np
import pytest

from fedsc.federated.centres import batches, grow, mean_and_variance, nearest, sum_by_centre
from fedsc.federated.query import add


def cloud(seed, cells=300, d=4):
    return np.random.default_rng(seed).normal(size=(cells, d))


def step_of(x):
    return lambda centres: sum_by_centre(centres, x)


def test_batches_hold_every_cell_once_in_order():
    x = cloud(0, cells=5000).astype(np.float32)
    parts = list(batches(x))
    assert [len(part) for part in parts] == [2048, 2048, 904]
    assert all(part.dtype == np.float64 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), x)


def test_of_no_cells_there_is_one_empty_batch():
    (part,) = batches(cloud(0)[:0])
    assert part.shape == (0, 4)


def test_sums_equal_the_plain_ones():
    x, centres = cloud(1), cloud(2, cells=10).reshape(2, 5, 4)
    weights = np.random.default_rng(3).integers(0, 4, len(x))
    sums = sum_by_centre(centres, x, weights)
    for i in range(2):
        own = np.linalg.norm(x[:, None] - centres[i], axis=2).argmin(axis=1)
        for j in range(5):
            cells = np.repeat(x, weights * (own == j), axis=0)
            assert sums["n"][i, j] == len(cells)
            np.testing.assert_allclose(sums["sum"][i, j], cells.sum(axis=0), atol=1e-12)
            expected = np.square(cells - centres[i, j]).sum(axis=0)
            np.testing.assert_allclose(sums["squares"][i, j], expected, atol=1e-12)


def test_moments_equal_numpys_and_a_group_without_cells_stays():
    x = cloud(4)
    centres = np.array([[[0.5, 0, 0, 0], [90, 0, 0, 0]]])
    mean, variance = mean_and_variance(centres, sum_by_centre(centres, x))
    np.testing.assert_allclose(mean[0], [x.mean(axis=0), centres[0, 1]], atol=1e-12)
    np.testing.assert_allclose(variance[0], [x.var(axis=0), np.zeros(4)], atol=1e-12)


def test_groups_grow_to_the_number_wanted_and_hold_all_cells():
    x = cloud(5)
    means, sizes = grow(step_of(x), x.mean(axis=0), 3, 17, 0)
    assert means.shape == (3, 17, 4)
    assert sizes.sum(axis=1).tolist() == [300] * 3
    assert len({part.tobytes() for part in means}) == 3


def test_outliers_do_not_eat_the_groups():
    x = np.concatenate([cloud(6, cells=1000), 1e4 * cloud(7, cells=5)])
    _, sizes = grow(step_of(x), x.mean(axis=0), 4, 40, 0)
    # Splitting in proportion to inertia would spend a group on every outlier.
    assert (sizes > 5).sum(axis=1).min() >= 20


def test_how_cells_are_split_does_not_matter():
    x = cloud(8)
    parts = np.split(x[np.random.default_rng(0).permutation(300)], [20, 20, 150])
    whole, sizes = grow(step_of(x), x.mean(axis=0), 2, 9, 1)
    split, same = grow(
        lambda centres: add(sum_by_centre(centres, part) for part in parts),
        x.mean(axis=0),
        2,
        9,
        1,
    )
    np.testing.assert_allclose(split, whole, atol=1e-12)
    np.testing.assert_array_equal(same, sizes)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_equal_cells_end_too(groups):
    x = np.ones((6, 4))
    means, sizes = grow(step_of(x), x.mean(axis=0), 2, groups, 0)
    assert np.isfinite(means).all()
    assert sizes[:, 0].tolist() == [6, 6]


@pytest.mark.parametrize(("cells", "sets", "k"), [(500, 3, 200), (0, 2, 3), (7, 1, 1)])
def test_the_nearest_centre_is_that_of_all_distances(cells, sets, k):
    rng = np.random.default_rng(cells)
    centres, x = rng.normal(size=(sets, k, 3)), rng.normal(size=(cells, 3))
    centres[:, -1] = centres[:, 0]  # of equally near ones the first
    wanted = np.square(x[:, None, None] - centres).sum(axis=3).argmin(axis=2)
    assert np.array_equal(nearest(centres, x), wanted)
