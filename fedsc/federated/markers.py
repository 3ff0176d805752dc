"""Marker genes of the pool's clusters, from sums: scanpy's ``rank_genes_groups``, federated.

Each cluster is held against all other cells by Welch's t-test on log-normalised values. The test
needs the number of cells, Σx and Σx² of every cluster and gene, which are sums; the result equals
``sc.tl.rank_genes_groups(method="t-test", pts=True)`` on the pooled cells. Besides, every lab tells
whether a gene is higher in a cluster than outside it among its own cells: a marker that holds in
most labs is not the technique of one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedsc.data.columns import mean_variance
from fedsc.federated.bounds import Asked, Check, at_most, finding, moments
from fedsc.federated.clustered import Clustered
from fedsc.federated.query import Ask, Question, Sums
from fedsc.federated.statistics import MOST_LOG, as_view

MARKERS = "markers"

SUPPORT_CELLS = 10
"""A lab says whether it supports a marker if it has so many cells in the cluster and outside it."""

_DIGITS = 10  # decimals of a score that rank genes; the rest depends on how cells are spread
_ROUNDING = 1e-12  # relative: two means, or a mean square and a squared mean, differ by more


@dataclass(frozen=True)
class Markers:
    """Genes of every cluster, the highest score first.

    All arrays are (k, N): N genes for each of k clusters.

    Attributes
    ----------
    genes
        Positions in the vocabulary, int64.
    scores
        t of Welch's test against all other cells, float64.
    pvals, pvals_adj
        Of both tails, and adjusted over the vocabulary by Benjamini & Hochberg (1995), float64.
    logfoldchanges
        log2 of the ratio of the means, from means of logarithms as scanpy does it, float64; NaN
        where no cell in the cluster, or none outside, measured the gene.
    pts, pts_rest
        Share of the cells in the cluster and outside that express the gene, float64; NaN as above.
    labs_supporting
        Labs in which the gene's mean is higher in the cluster than outside it, int64.
    labs_measured
        Labs that measured the gene and have enough cells to say, int64.
    """

    genes: np.ndarray
    scores: np.ndarray
    pvals: np.ndarray
    pvals_adj: np.ndarray
    logfoldchanges: np.ndarray
    pts: np.ndarray
    pts_rest: np.ndarray
    labs_supporting: np.ndarray
    labs_measured: np.ndarray

    def first(self, n_genes: int) -> "Markers":
        """Keep the first genes of every cluster."""
        return Markers(**{name: array[:, :n_genes] for name, array in vars(self).items()})


def sum_by_cluster(lab: Clustered, question: Question) -> Sums:
    """Sum the log-normalised values of every gene by cluster.

    Cells without counts take no part, and the lab takes none in genes it did not measure.

    Parameters
    ----------
    lab
        Clusters below k.
    question
        Holds ``target_sum`` float64 (1,), 0 = the values are log-normalised, and ``k`` int64 (1,).

    Returns
    -------
    Sums
        All (k, V), 28 bytes for a cluster and gene: ``sum`` Σx and ``square`` Σx² float64; ``n``
        cells and ``detected`` cells above zero int32; ``measured`` and ``supporting`` int16, 1
        where the lab has :data:`SUPPORT_CELLS` in and outside the cluster and where, besides, the
        gene's mean is higher in it.
    """
    target_sum, k = float(question.arrays["target_sum"][0]), int(question.arrays["k"][0])
    width = lab.cells.n_genes
    n = np.zeros(k, dtype=np.int64)
    total, square = np.zeros((k, width)), np.zeros((k, width))
    detected = np.zeros((k, width), dtype=np.int32)
    start = 0
    for block, sizes in lab.cells.blocks_with_sizes():
        values = as_view(lab.cells, block, sizes, target_sum, "log")
        clusters = lab.clusters[start : start + len(sizes)].astype(np.int64)
        start += len(sizes)
        n += np.bincount(clusters[sizes > 0], minlength=k)
        places = np.repeat(clusters * width, np.diff(values.indptr)) + values.indices
        x = values.data.astype(np.float64, copy=False)
        np.add.at(total.reshape(-1), places, x)
        np.add.at(square.reshape(-1), places, x * x)
        np.add.at(detected.reshape(-1), places, np.int32(1))
    n_rest = n.sum() - n
    enough = (n >= SUPPORT_CELLS) & (n_rest >= SUPPORT_CELLS)
    higher = total * n_rest[:, None] > _rest(total) * n[:, None]
    measured = lab.cells.measured
    return {
        "n": np.outer(n, measured).astype(np.int32),
        "sum": total,
        "square": square,
        "detected": detected,
        "measured": np.outer(enough, measured).astype(np.int16),
        "supporting": (np.outer(enough, measured) & higher).astype(np.int16),
    }


ANSWERS: dict[str, Callable[[Clustered, Question], Sums]] = {MARKERS: sum_by_cluster}


def learn_markers(ask: Ask, k: int, target_sum: float) -> Markers:
    """Rank the genes of every cluster, in one question.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    k
        Number of clusters.
    target_sum
        Library size cells are scaled to; 0 = their values are log-normalised already.
    """
    return rank_genes(ask(markers_question(k, target_sum)))


def markers_question(k: int, target_sum: float) -> Question:
    """Give the question :func:`learn_markers` puts."""
    arrays = {"target_sum": np.array([target_sum]), "k": np.array([k], dtype=np.int64)}
    return Question(MARKERS, arrays)


def rank_genes(sums: Sums) -> Markers:
    """Test every gene of every cluster, with the conventions of scanpy's ``rank_genes_groups``.

    Where scanpy stops or divides by nothing (fewer than two cells on a side, no variance and no
    difference), a gene scores 0 with a p-value of 1. Of genes that tie, the first in the
    vocabulary comes first.

    Parameters
    ----------
    sums
        Of :func:`sum_by_cluster` over the pool.
    """
    from scipy.stats import false_discovery_control, ttest_ind_from_stats

    rest = {name: _rest(sums[name]) for name in ("n", "sum", "square", "detected")}
    n, n_rest = sums["n"], rest["n"]
    (mean, variance), (mean_rest, variance_rest) = _mean_variance(sums), _mean_variance(rest)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores, pvals = ttest_ind_from_stats(
            mean, np.sqrt(variance), n, mean_rest, np.sqrt(variance_rest), n_rest, equal_var=False
        )
        pts, pts_rest = sums["detected"] / n, rest["detected"] / n_rest
    differs = np.abs(mean - mean_rest) > _ROUNDING * mean
    tested = (n > 1) & (n_rest > 1) & differs
    scores, pvals = np.where(tested, scores, 0.0), np.where(tested, pvals, 1.0)
    foldchanges = (np.expm1(mean) + 1e-9) / (np.expm1(mean_rest) + 1e-9)
    known = (n > 0) & (n_rest > 0)

    ranked = np.argsort(-scores.round(_DIGITS), axis=1, kind="stable")

    def of_ranked(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, ranked, axis=1)

    return Markers(
        genes=ranked,
        scores=of_ranked(scores),
        pvals=of_ranked(pvals),
        pvals_adj=of_ranked(false_discovery_control(pvals, axis=1)),
        logfoldchanges=of_ranked(np.where(known, np.log2(foldchanges), np.nan)),
        pts=of_ranked(pts),
        pts_rest=of_ranked(pts_rest),
        labs_supporting=of_ranked(sums["supporting"].astype(np.int64)),
        labs_measured=of_ranked(sums["measured"].astype(np.int64)),
    )


def _rest(sums: np.ndarray) -> np.ndarray:
    """Sum over the other clusters, float64 (k, V).

    Added up, what is not negative loses no digits; taken from the sum over all, it would.
    """
    return np.asarray((1.0 - np.eye(len(sums))) @ sums)


def _mean_variance(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and variance; what rounding leaves of the variance of a constant gene is 0."""
    mean, variance = mean_variance(np.zeros(1), sums["sum"], sums["square"], sums["n"])
    return mean, np.where(variance > _ROUNDING * mean**2, variance, 0.0)


def check_markers(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`sum_by_cluster`."""
    n, target = sums["n"], float(asked.question.arrays["target_sum"][0])
    cells = n.sum(axis=0)
    largest = float(np.log1p(target)) if target else MOST_LOG
    measured = n[:, cells > 0]
    return finding(
        at_most("n", cells, asked.n_cells),
        "" if (measured == measured[:, :1]).all() else "genes are measured in different cells",
        at_most("detected", sums["detected"], n),
        at_most("measured", sums["measured"], 1),
        at_most("supporting", sums["supporting"], sums["measured"]),
        moments("log", n, sums["sum"], sums["square"], 0.0, largest * (1 + 1e-6)),
    )


CHECKS: dict[str, Check] = {MARKERS: check_markers}
