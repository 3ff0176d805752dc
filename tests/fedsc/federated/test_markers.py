import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ttest_ind

from fedsc.data import rows
from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated.answers import answer
from fedsc.federated.clustered import Clustered
from fedsc.federated.markers import MARKERS, SUPPORT_CELLS, learn_markers, rank_genes
from fedsc.federated.query import Question, ask_locally

TARGET = 1e4


def lab(matrix, clusters, genes=None, vocabulary=None, kind="counts"):
    matrix = sp.csr_matrix(np.asarray(matrix, dtype=np.float32))
    cells = np.array([f"cell-{i}" for i in range(matrix.shape[0])], dtype=object)
    genes = [f"gene {i} x" for i in range(matrix.shape[1])] if genes is None else genes
    expression = Expression(
        np.array(genes, dtype=object), cells, pd.DataFrame(index=cells), kind, matrix
    )
    aligned = align(expression, genes if vocabulary is None else vocabulary)
    return Clustered(aligned, np.asarray(clusters), None)


def split(matrix, clusters, lab_of, **options):
    return [
        lab(matrix[lab_of == i], clusters[lab_of == i], **options)
        for i in range(lab_of.max(initial=0) + 1)
    ]


def question(k, target_sum=TARGET):
    return Question(MARKERS, {"target_sum": np.array([target_sum]), "k": np.array([k])})


def sample(seed, n_cells=120, n_genes=15, k=3):
    """Draw counts, clusters that differ in some genes, and labs."""
    rng = np.random.default_rng(seed)
    clusters = np.concatenate([np.arange(k).repeat(2), rng.integers(k, size=n_cells - 2 * k)])
    rates = rng.gamma(0.4, 3.0, size=n_genes) * rng.choice([1, 4], size=(k, n_genes))
    counts = rng.poisson(rates[clusters])
    counts[:, 0] += 1  # no cell is without counts
    counts[:, -1] = 0  # and a gene is in no cell
    return counts, clusters, rng.integers(rng.integers(1, 5), size=n_cells)


def log_normalised(counts, target_sum=TARGET):
    counts = np.asarray(counts, dtype=np.float64)
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * target_sum)


def by_gene(markers, field):
    """Put a column of the table back into the vocabulary's order."""
    values = np.empty(markers.genes.shape)
    np.put_along_axis(values, markers.genes, getattr(markers, field), axis=1)
    return values


def scanpy_table(x, clusters):
    """Rank with scanpy, on float64: names, scores, pvals, pvals_adj, logfoldchanges, pts."""
    cells = anndata.AnnData(sp.csr_matrix(x))
    cells.obs["cluster"] = pd.Categorical(clusters.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's table is in many pieces
        sc.tl.rank_genes_groups(cells, "cluster", method="t-test", pts=True)
    return cells.uns["rank_genes_groups"]


def assert_equals_scanpy(markers, x, clusters):
    table = scanpy_table(x, clusters)
    scores = by_gene(markers, "scores")
    for cluster in range(len(scores)):
        theirs = table["names"][str(cluster)].astype(int)
        ours = markers.genes[cluster]

        def same(name, field, rtol, cluster=cluster, theirs=theirs):
            expected = table[name][str(cluster)]
            np.testing.assert_allclose(
                by_gene(markers, field)[cluster][theirs], expected, rtol=rtol, atol=1e-12
            )

        same("pvals", "pvals", 1e-9)
        same("pvals_adj", "pvals_adj", 1e-9)
        same("scores", "scores", 1e-6)  # float32 there
        same("logfoldchanges", "logfoldchanges", 1e-6)
        for field in ("pts", "pts_rest"):
            pts = table[field][str(cluster)].to_numpy()
            np.testing.assert_allclose(by_gene(markers, field)[cluster], pts, rtol=1e-14)
        # The same order, but for genes whose scores tie.
        steps = np.abs(np.diff(markers.scores[cluster]))
        alone = (np.r_[np.inf, steps] > 1e-9) & (np.r_[steps, np.inf] > 1e-9)
        assert (ours[alone] == theirs[alone]).all()
        assert (np.diff(scores[cluster][theirs]) < 1e-9).all()


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_equal_to_scanpy_on_the_pool(seed):
    counts, clusters, lab_of = sample(seed)
    ask = ask_locally(split(counts, clusters, lab_of), answer)
    assert_equals_scanpy(learn_markers(ask, 3, TARGET), log_normalised(counts), clusters)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_equal_to_the_test_written_out(seed):
    counts, clusters, lab_of = sample(seed)
    markers = learn_markers(ask_locally(split(counts, clusters, lab_of), answer), 3, TARGET)
    x = log_normalised(counts)
    for cluster in range(3):
        inside, rest = x[clusters == cluster], x[clusters != cluster]
        with np.errstate(invalid="ignore", divide="ignore"):
            t, p = ttest_ind(inside[:, :-1], rest[:, :-1], equal_var=False)
        t, p = np.append(np.nan_to_num(t), 0), np.append(np.where(np.isnan(p), 1, p), 1)
        ratio = (np.expm1(inside.mean(axis=0)) + 1e-9) / (np.expm1(rest.mean(axis=0)) + 1e-9)
        found = {field: by_gene(markers, field)[cluster] for field in vars(markers)}
        np.testing.assert_allclose(found["scores"], t, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found["pvals"], p, rtol=1e-9)
        np.testing.assert_allclose(found["pvals_adj"], false_discovery_control(p), rtol=1e-9)
        np.testing.assert_allclose(found["logfoldchanges"], np.log2(ratio), rtol=1e-9, atol=1e-11)
        assert found["pts"].tolist() == (inside > 0).mean(axis=0).tolist()
        assert found["pts_rest"].tolist() == (rest > 0).mean(axis=0).tolist()


def test_equal_to_scanpy_on_real_labs(real_data):
    cells = read(real_data("pbmc_3techs_1200"), ReadAs(label_key="cell_type"))
    types, clusters = np.unique(cells.labels, return_inverse=True)
    batches = cells.obs["batch"].to_numpy()
    labs = [
        Clustered(align(cells.subset(rows), cells.genes), clusters[rows], None)
        for rows in (np.flatnonzero(batches == batch) for batch in np.unique(batches))
    ]
    markers = learn_markers(ask_locally(labs, answer), len(types), TARGET)
    matrix = cells.matrix.astype(np.float64)
    matrix = sp.diags(TARGET / matrix.sum(axis=1).A1) @ matrix
    assert_equals_scanpy(markers, matrix.log1p(), clusters)
    best = [types[cluster] for cluster in range(len(types)) if markers.labs_supporting[cluster, 0]]
    assert len(best) >= 7  # the best gene of nearly every type holds in a lab


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 10**6]))
def test_sums_of_any_split_are_the_pool_s(seed, block):
    counts, clusters, lab_of = sample(seed, n_cells=40, n_genes=6)
    lab_of[:] = np.sort(lab_of)  # so that cells are added in one order
    pooled = answer(lab(counts, clusters), question(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", block)
        apart = ask_locally(split(counts, clusters, lab_of), answer)(question(3))
    for name in ("n", "detected"):
        assert (apart[name] == pooled[name]).all()
    for name in ("sum", "square"):
        np.testing.assert_allclose(apart[name], pooled[name], rtol=1e-13)
    assert [pooled[name].dtype for name in ("n", "detected")] == [np.int32] * 2
    assert [pooled[name].dtype for name in ("measured", "supporting")] == [np.int16] * 2
    ours, theirs = rank_genes(apart), rank_genes(pooled)
    assert (ours.genes == theirs.genes).all()


def test_blocks_change_no_bit():
    counts, clusters, _ = sample(0)
    whole = answer(lab(counts, clusters), question(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", 40)
        blocks = answer(lab(counts, clusters), question(3))
    assert all((whole[name] == blocks[name]).all() for name in whole)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_labs_say_whether_a_marker_holds(seed):
    counts, clusters, lab_of = sample(seed, n_cells=100)
    ask = ask_locally(split(counts, clusters, lab_of), answer)
    markers = learn_markers(ask, 3, TARGET)
    x, supporting, measured = log_normalised(counts), np.zeros((3, 15)), np.zeros((3, 15))
    for i in range(lab_of.max() + 1):
        for cluster in range(3):
            inside = x[(lab_of == i) & (clusters == cluster)]
            rest = x[(lab_of == i) & (clusters != cluster)]
            if min(len(inside), len(rest)) >= SUPPORT_CELLS:
                measured[cluster] += 1
                supporting[cluster] += inside.mean(axis=0) > rest.mean(axis=0)
    assert (by_gene(markers, "labs_measured") == measured).all()
    assert (by_gene(markers, "labs_supporting") == supporting).all()


def test_a_lab_takes_no_part_in_genes_it_did_not_measure():
    counts, clusters, _ = sample(5, n_cells=90, n_genes=4)
    counts[:, 2] = np.random.default_rng(5).poisson(4, size=90)
    vocabulary = [f"gene {i} x" for i in range(4)]
    first = lab(counts[:50], clusters[:50], vocabulary=vocabulary)
    second = lab(
        counts[50:, [3, 1, 0]], clusters[50:], [vocabulary[i] for i in (3, 1, 0)], vocabulary
    )
    markers = learn_markers(ask_locally([first, second], answer), 3, TARGET)
    x = log_normalised(counts[:50])[:, 2]  # only the first lab knows gene 2
    for cluster in range(3):
        inside, rest = x[clusters[:50] == cluster], x[clusters[:50] != cluster]
        t, p = ttest_ind(inside, rest, equal_var=False)
        assert by_gene(markers, "scores")[cluster, 2] == pytest.approx(t, rel=1e-9)
        assert by_gene(markers, "pvals")[cluster, 2] == pytest.approx(p, rel=1e-9)
        assert by_gene(markers, "pts")[cluster, 2] == (inside > 0).mean()
    assert by_gene(markers, "labs_measured").max(axis=0).tolist() == [2, 2, 1, 2]


def test_cells_without_counts_take_no_part():
    counts, clusters, _ = sample(1, n_cells=30)
    empty = np.zeros((4, counts.shape[1]))
    full = learn_markers(ask_locally([lab(counts, clusters)], answer), 3, TARGET)
    more = lab(np.vstack([empty, counts]), np.r_[0, 1, 1, 2, clusters])
    found = learn_markers(ask_locally([more], answer), 3, TARGET)
    assert all(np.array_equal(getattr(full, name), getattr(found, name)) for name in vars(full))


def test_lognorm_values_are_taken_as_they_are():
    counts, clusters, lab_of = sample(2)
    x = log_normalised(counts).astype(np.float32)
    ask = ask_locally(split(x, clusters, lab_of, kind="lognorm"), answer)
    assert_equals_scanpy(learn_markers(ask, 3, 0.0), x.astype(np.float64), clusters)


def test_what_cannot_be_tested_scores_nothing():
    """scanpy refuses clusters of one cell; a run of many labs must not fail for one."""
    values = np.array([[1.0, 2, 0], [1, 3, 0], [2, 4, 0], [2, 6, 0], [2, 5, 0]])
    labs = [lab(values, [0, 0, 1, 1, 2], kind="lognorm")]
    markers = learn_markers(ask_locally(labs, answer), 4, 0.0)
    alone, empty = 2, 3
    for cluster in (alone, empty):
        assert markers.scores[cluster].tolist() == [0, 0, 0]
        assert markers.pvals_adj[cluster].tolist() == [1, 1, 1]
        assert markers.genes[cluster].tolist() == [0, 1, 2]  # ties in the vocabulary's order
    assert by_gene(markers, "pts")[alone].tolist() == [1, 1, 0]
    assert np.isnan(markers.pts[empty]).all()
    assert np.isnan(markers.logfoldchanges[empty]).all()
    assert not np.isnan(markers.logfoldchanges[:3]).any()
    assert (markers.scores[1, :2] > 0).all()  # the cell alone still counts as one of the rest


def test_one_cluster_has_nothing_to_differ_from():
    counts, clusters, _ = sample(3, n_cells=20, k=1)
    markers = learn_markers(ask_locally([lab(counts, clusters)], answer), 1, TARGET).first(4)
    assert markers.genes.tolist() == [[0, 1, 2, 3]]
    assert markers.scores.tolist() == [[0, 0, 0, 0]]
    assert np.isnan(markers.pts_rest).all()


@pytest.mark.parametrize("value", [0.3, 1.7, 7.1])
def test_a_constant_gene_is_no_marker_by_rounding(value):
    x = np.full((3000, 2), value)
    clusters = np.arange(3000) % 7 % 3
    x[:, 1] = np.where(clusters == 1, 2 * value, value)
    labs = split(x, clusters, np.arange(3000) % 5, kind="lognorm")
    markers = learn_markers(ask_locally(labs, answer), 3, 0.0)
    assert by_gene(markers, "scores")[:, 0].tolist() == [0, 0, 0]
    assert by_gene(markers, "pvals")[:, 0].tolist() == [1, 1, 1]
    assert by_gene(markers, "scores")[1, 1] == np.inf  # constant on both sides, and different
    assert by_gene(markers, "pvals")[1, 1] == 0


def test_the_first_genes_are_those_of_the_whole_ranking():
    counts, clusters, lab_of = sample(4)
    ask = ask_locally(split(counts, clusters, lab_of), answer)
    full = learn_markers(ask, 3, TARGET)
    for name in vars(full):
        assert np.array_equal(getattr(full, name)[:, :5], getattr(full.first(5), name))
    assert full.first(99).genes.shape == (3, 15)
