import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fedsc.errors import ConfigError, RunError
from fedsc.federated import metrics
from fedsc.federated.answers import answer
from fedsc.federated.graph import (
    LINKS,
    agreement,
    assign,
    learn_graph,
    tidy,
)
from fedsc.federated.metrics import Embedded
from fedsc.federated.micro import ANSWERS, MicroCentres, learn_micro, weigh
from fedsc.federated.query import Question, add, ask_locally

RESOLUTIONS = (0.4, 1.0)


def cloud(seed, cells=300, d=8, types=6, far=4.0):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, types, cells))
    x = far * rng.normal(size=(types, d))[labels] + rng.normal(size=(cells, d))
    return x.astype(np.float32), labels.astype(str)


def ask_of(*parts):
    return ask_locally([Embedded(x, None) for x in parts], answer)


def clusters_of(x, *parts, resolutions=RESOLUTIONS):
    found = learn_graph(ask_of(*parts), resolutions, 0)
    return found, assign(found.micro, found.communities, x)


def test_links_equal_the_plain_product():
    x, _ = cloud(0, cells=5000)
    micro = learn_micro(ask_locally([x], lambda lab, q: ANSWERS[q.name](lab, q)), 0)
    triangle = answer(Embedded(x, None), Question(LINKS, micro.arrays()))["links"]
    z = weigh(micro, x).toarray()
    slow = z.T @ z
    np.testing.assert_array_equal(triangle, slow[np.triu_indices(len(slow))])
    # Degrees are numbers of cells.
    assert slow.sum() == 5000


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=10)
def test_links_of_any_parts_add_up_to_the_last_bit(seed, cuts):
    x, _ = cloud(1)
    micro = learn_micro(ask_locally([x], lambda lab, q: ANSWERS[q.name](lab, q)), 0)
    question = Question(LINKS, micro.arrays())
    order = np.random.default_rng(seed).permutation(len(x))
    parts = np.split(x[order], sorted(cuts))
    total = add(answer(Embedded(part, None), question) for part in parts)
    whole = answer(Embedded(x, None), question)
    assert total["links"].tobytes() == whole["links"].tobytes()


def test_finds_types_nobody_counted():
    x, labels = cloud(2, far=8.0)
    found, clusters = clusters_of(x, x[:100], x[100:], resolutions=[0.4])
    assert adjusted_rand_score(labels, clusters[0]) > 0.99
    assert np.count_nonzero(found.sizes) == 6


def _ways_to_split(x, labels):
    order = np.random.default_rng(0).permutation(len(x))
    yield np.array_split(x[order], 5)
    yield [x[labels == name] for name in np.unique(labels)]
    yield [x[:0], x[:1], x[1:]]


def _labels_are_the_same_however_cells_are_split(x, labels):
    found, clusters = clusters_of(x, x)
    for parts in _ways_to_split(x, labels):
        other, same = clusters_of(x, *parts)
        np.testing.assert_array_equal(same, clusters)
        np.testing.assert_array_equal(other.communities, found.communities)
        np.testing.assert_array_equal(other.sizes, found.sizes)
        np.testing.assert_array_equal(other.stability, found.stability)


@pytest.mark.parametrize("far", [0.0, 2.0])
def test_labels_are_the_same_however_cells_are_split(far):
    _labels_are_the_same_however_cells_are_split(*cloud(3, far=far))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hao_pbmc_1336", "pbmc_3techs_1200", "kang_ifn_pbmc_donors"])
def test_labels_are_the_same_however_real_cells_are_split(real_data, name):
    import anndata
    from sklearn.decomposition import PCA

    data = anndata.read_h5ad(real_data(name))
    counts = data.X.toarray().astype(np.float64)
    log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    log = log[:, np.argsort(-log.var(axis=0))[:300]]
    x = PCA(30, svd_solver="full").fit_transform(log).astype(np.float32)
    labels = data.obs["cell_type"].astype(str).to_numpy()
    _labels_are_the_same_however_cells_are_split(x, labels)
    _, clusters = clusters_of(x, x, resolutions=[0.4])
    assert normalized_mutual_info_score(labels, clusters[0]) > 0.55


def test_the_largest_cluster_comes_first_and_sizes_count_cells():
    x, _ = cloud(4)
    found, clusters = clusters_of(x, x[:10], x[10:])
    for sizes, row in zip(found.sizes, clusters, strict=True):
        np.testing.assert_array_equal(sizes, np.bincount(row, minlength=len(sizes)))
        assert (np.diff(sizes) <= 0).all()
    assert found.communities.shape == (2, len(found.micro.centres))


def test_labs_that_share_a_cluster_are_counted():
    x, labels = cloud(5, far=8.0)
    parts = x[labels == "0"], x[labels <= "1"], x[labels >= "2"]
    found = learn_graph(ask_of(*parts), [0.4], 0)
    clusters = [assign(found.micro, found.communities[0], part) for part in parts]
    expected = [sum(c in own for own in clusters) for c in range(len(found.sizes[0]))]
    assert found.labs[0].tolist() == expected
    assert sorted(set(expected)) == [1, 2]


def test_stability_is_the_rand_index_of_neighbouring_resolutions():
    x, _ = cloud(6, far=1.5)
    found, (low, middle, high) = clusters_of(x, x[:99], x[99:], resolutions=[0.2, 0.4, 1.0])
    expected = [adjusted_rand_score(low, middle), adjusted_rand_score(middle, high)]
    np.testing.assert_allclose(found.stability, expected)
    assert found.stability.min() < 1


def test_agreement_with_labels_equals_scikit_learn():
    x, labels = cloud(7, far=2.0)
    labels[::7] = ""
    labs = [Embedded(x[:100], labels[:100]), Embedded(x[100:250], labels[100:250])]
    ask = ask_locally([*labs, Embedded(x[250:], None)], answer)
    found = learn_graph(ask, RESOLUTIONS, 0, vocabulary=[str(i) for i in range(6)])
    told = agreement(found)
    clusters = assign(found.micro, found.communities, x)
    known = (labels != "") & (np.arange(300) < 250)
    for row, scores in zip(clusters, told, strict=True):
        assert scores["ari"] == pytest.approx(adjusted_rand_score(labels[known], row[known]))
        assert scores["nmi"] == pytest.approx(
            normalized_mutual_info_score(labels[known], row[known])
        )


@pytest.mark.parametrize(("cells", "questions"), [(100, 17), (300, 18)])
def test_labels_cost_no_question_and_no_cluster(cells, questions):
    x, labels = cloud(6, cells=cells)
    found = []
    for vocabulary in ([], [str(i) for i in range(6)]):
        asked = []

        def ask(question, asked=asked):
            asked.append(question.name)
            return ask_locally([Embedded(x, labels)], answer)(question)

        found.append(learn_graph(ask, (0.2, 0.4, 1.0), 0, vocabulary=vocabulary))
        assert len(asked) == questions
    np.testing.assert_array_equal(found[0].communities, found[1].communities)
    np.testing.assert_array_equal(found[0].sizes, found[1].tables.sum(axis=1))


def test_no_label_no_agreement():
    x, _ = cloud(8)
    nothing = [{"ari": None, "nmi": None, "rare_f1": None}] * 2
    for vocabulary in ([], ["T", "B"]):
        found = learn_graph(ask_of(x), RESOLUTIONS, 0, vocabulary=vocabulary)
        assert agreement(found) == nothing


def test_one_row_of_communities_labels_as_several_do():
    x, _ = cloud(9, cells=5000)
    found, clusters = clusters_of(x, x[:300])
    assert clusters.dtype == np.int32
    assert clusters.shape == (2, 5000)
    one = assign(found.micro, found.communities[1], x)
    np.testing.assert_array_equal(one, clusters[1])
    parts = [assign(found.micro, found.communities[1], part) for part in np.split(x, [1, 700])]
    np.testing.assert_array_equal(np.concatenate(parts), one)


def test_cells_take_the_community_with_most_of_their_weight():
    x, _ = cloud(10, far=1.0)
    found, clusters = clusters_of(x, x)
    z = weigh(found.micro, x).toarray()
    for communities, row in zip(found.communities, clusters, strict=True):
        weight = np.stack(
            [z[:, communities == c].sum(axis=1) for c in range(communities.max() + 1)]
        )
        np.testing.assert_array_equal(row, weight.argmax(axis=0))


def test_equal_weights_do_not_depend_on_how_communities_are_numbered():
    """A cell between two centres, one set: half its weight each."""
    centres = np.array([[1.0, 0.0], [0.0, 1.0]])
    nodes = MicroCentres(centres, np.array([0, 0]), 1.0)
    between = np.array([[0.5, 0.5]], dtype=np.float32)
    assert (weigh(nodes, between).toarray() == 0.5).all()
    assert assign(nodes, np.array([0, 1]), between).tolist() == [0]
    assert assign(nodes, np.array([1, 0]), between).tolist() == [1]  # the same node's
    assert assign(nodes, np.array([[1, 0], [0, 1]]), between).tolist() == [[1], [0]]


def test_small_communities_join_the_most_linked_smallest_first():
    links = np.diag([50.0, 30.0, 2.0, 3.0, 4.0])
    for a, b, weight in [(0, 1, 1), (1, 2, 1), (2, 3, 2), (0, 3, 0.5)]:
        links[a, b] = links[b, a] = weight
    # 2 (5 cells) joins 3, then both (10.5 cells) are enough; 4 is linked to none.
    assert tidy(links, np.arange(5)).tolist() == [0, 1, 2, 2, 3]
    links[2, 2] = 0.5
    # Together 9 cells: they join 1, which they are linked to by more than to 0.
    assert tidy(links, np.arange(5)).tolist() == [0, 1, 1, 1, 2]


def test_two_questions_more_than_the_micro_centres_whatever_the_resolutions():
    x, _ = cloud(12)
    asked = []

    def ask(question):
        asked.append(question.name)
        return answer(Embedded(x, None), question)

    learn_graph(ask, [0.1, 0.2, 0.4, 0.8], 0)
    assert [name for name in asked if name.startswith("graph")] == ["graph-links", "graph-tally"]


def test_the_seed_decides():
    x, _ = cloud(13, far=1.0)
    first, again, other = (learn_graph(ask_of(x), RESOLUTIONS, seed) for seed in (1, 1, 2))
    assert first.communities.tobytes() == again.communities.tobytes()
    assert first.micro.centres.tobytes() != other.micro.centres.tobytes()


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 12])
def test_few_cells_are_enough(cells):
    x, _ = cloud(14, cells=cells)
    found, clusters = clusters_of(x, x, x[:0])
    assert found.sizes.sum(axis=1).tolist() == [cells] * 2
    assert clusters.shape == (2, cells)


def test_equal_cells_make_one_cluster():
    found, clusters = clusters_of(np.ones((4, 3)), np.ones((40, 3)), np.ones((20, 3)))
    assert found.sizes[:, 0].tolist() == [60] * 2
    assert not clusters.any()
    assert found.stability.tolist() == [1]


def test_cells_at_the_origin_make_one_cluster():
    found, _ = clusters_of(np.zeros((1, 3)), np.zeros((30, 3)))
    assert found.sizes[:, 0].tolist() == [30] * 2


@pytest.mark.parametrize("resolutions", [[], [0.0], [-1.0, 1.0], [np.nan]])
def test_refuses_impossible_resolutions(resolutions):
    x, _ = cloud(15)
    with pytest.raises(ConfigError, match="numbers > 0"):
        learn_graph(ask_of(x), resolutions, 0)


@pytest.mark.parametrize("value", [-1.0, np.nan, 0.0])
def test_refuses_links_that_are_no_sums_of_weights(value):
    x, _ = cloud(16)

    def ask(question):
        sums = answer(Embedded(x, None), question)
        if question.name == LINKS:
            sums["links"][:] = value
        return sums

    with pytest.raises(RunError, match="not sums of weights"):
        learn_graph(ask, RESOLUTIONS, 0)


def test_refuses_values_that_are_not_finite():
    x, _ = cloud(17)
    x[3, 2] = np.nan
    with pytest.raises(RunError, match="not finite"):
        learn_graph(ask_of(x), RESOLUTIONS, 0)


def test_labels_outside_the_vocabulary_are_refused():
    from fedsc.errors import DataError

    x, labels = cloud(18)
    ask = ask_locally([Embedded(x, labels)], answer)
    with pytest.raises(DataError, match="not among the 1"):
        learn_graph(ask, [0.4], 0, vocabulary=["0"])


def test_one_partition_is_stable():
    assert metrics.ari_from_contingency(np.array([[3, 0], [0, 4]])) == 1
    x, _ = cloud(19, far=8.0)
    assert learn_graph(ask_of(x), [0.3, 0.4], 0).stability.tolist() == [1]
