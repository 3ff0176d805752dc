import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.federated.leiden import leiden, merge, modularity, number


def random_links(seed, nodes, density=0.3):
    rng = np.random.default_rng(seed)
    links = rng.random((nodes, nodes)) * (rng.random((nodes, nodes)) < density)
    return links + links.T


def ring(groups, size):
    """Groups of nodes linked strongly inside and weakly to the next group."""
    n = groups * size
    links = np.kron(np.eye(groups), np.ones((size, size)))
    for i in range(groups):
        a, b = i * size, (i + 1) % groups * size
        links[a, b] = links[b, a] = 0.1
    return links, np.arange(n) // size


@given(st.integers(0, 10_000), st.floats(0.1, 3.0))
def test_modularity_equals_the_sum_over_pairs(seed, resolution):
    links = random_links(seed, 12)
    communities = np.random.default_rng(seed).integers(0, 4, 12)
    degrees, total = links.sum(axis=1), links.sum()
    expected = sum(
        links[i, j] / total - resolution * degrees[i] * degrees[j] / total**2
        for i in range(12)
        for j in range(12)
        if communities[i] == communities[j]
    )
    assert modularity(links, communities, resolution) == pytest.approx(expected)


def test_modularity_is_the_potts_quality_with_degrees_as_weights():
    """The constant part apart, the diagonal is in the degrees only (Traag et al. 2011)."""
    links, communities = ring(5, 4)
    degrees = links.sum(axis=1)
    total = degrees.sum()
    together = communities[:, None] == communities
    off = ~np.eye(len(links), dtype=bool)
    for resolution in (0.4, 1.0):
        potts = (links - resolution * np.outer(degrees, degrees) / total)[together & off].sum()
        alone = np.trace(links) - resolution * np.square(degrees).sum() / total
        expected = (potts + alone) / total
        assert modularity(links, communities, resolution) == pytest.approx(expected)


def test_leiden_finds_groups_and_obeys_the_resolution():
    links, groups = ring(8, 5)
    np.testing.assert_array_equal(leiden(links, 1.0, 0), groups)
    assert (leiden(links, 1e-3, 0) == 0).all()
    np.testing.assert_array_equal(leiden(links, 1.0, 3), leiden(links, 1.0, 3))


@given(st.integers(0, 10_000), st.floats(0.1, 2.0))
@settings(max_examples=20)
def test_finds_the_best_of_all_partitions_of_few_nodes(seed, resolution):
    links = random_links(seed, 7, density=0.4) + 0.1 * np.eye(7)
    best = max(modularity(links, p, resolution) for p in partitions(7))
    assert modularity(links, leiden(links, resolution, 0), resolution) == pytest.approx(best)


def partitions(nodes):
    """All partitions, as the communities of nodes in order of appearance."""
    found = [[0]]
    for _ in range(nodes - 1):
        found = [[*part, c] for part in found for c in range(max(part) + 2)]
    return [np.array(part) for part in found]


@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(0.2, 2.0))
@settings(max_examples=20)
def test_no_move_of_one_node_and_no_union_of_two_communities_gains(seed, nodes, resolution):
    links = random_links(seed, nodes, density=0.2) + 0.01 * np.eye(nodes)
    found = leiden(links, resolution, 0)
    reached = modularity(links, found, resolution) + 1e-9
    for node in range(nodes):
        for community in range(found.max() + 2):
            moved = found.copy()
            moved[node] = community
            assert modularity(links, number(moved), resolution) <= reached
    for a in range(found.max()):
        for b in range(a + 1, found.max() + 1):
            united = number(np.where(found == b, a, found))
            assert modularity(links, united, resolution) <= reached


@pytest.mark.parametrize("seed", range(3))
def test_reaches_what_igraph_reaches(seed):
    igraph = pytest.importorskip("igraph")
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(150, 3)) + 3 * rng.normal(size=(6, 3))[np.arange(150) % 6]
    links = np.exp(-np.square(points[:, None] - points).sum(axis=2))
    degrees = links.sum(axis=1)
    rows, columns = np.triu_indices(150, 1)
    graph = igraph.Graph(150, np.stack([rows, columns], axis=1))
    for resolution in (0.4, 1.0):
        theirs = graph.community_leiden(
            "CPM",
            weights=links[rows, columns],
            node_weights=degrees,
            resolution=resolution / degrees.sum(),
            n_iterations=5,
        ).membership
        reached = modularity(links, np.array(theirs), resolution)
        assert modularity(links, leiden(links, resolution, 0), resolution) > 0.995 * reached


def test_nodes_without_links_stay_alone():
    links = np.diag([1.0, 2.0, 3.0])
    assert leiden(links, 1.0, 0).tolist() == [0, 1, 2]


def test_one_node_is_one_community():
    assert leiden(np.array([[5.0]]), 1.0, 0).tolist() == [0]


def test_merged_links_keep_their_sum():
    links = random_links(0, 9)
    communities = np.arange(9) % 3
    merged = merge(links, communities)
    assert merged.sum() == pytest.approx(links.sum())
    inside = links[communities == 1][:, communities == 2].sum()
    assert merged[1, 2] == pytest.approx(inside)


def test_numbers_are_in_order_of_appearance():
    assert number(np.array([7, 2, 7, 0, 2])).tolist() == [0, 1, 0, 2, 1]
