"""Scores of a clustering of the pool, from sums: no lab tells a cell, a label or a cluster.

Agreement with labels comes from the contingency table, exactly (ARI, NMI). Shape comes from sums
about the clusters' means: Calinski–Harabasz exactly; the silhouette needs all pairs of cells, so
its simplified form stands in, see :func:`silhouette_from_spread`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedsc.errors import DataError
from fedsc.evaluate import rare_type_f1
from fedsc.federated.bounds import (
    LARGEST,
    Asked,
    Check,
    adds_up,
    at_least,
    at_most,
    finding,
    within,
)
from fedsc.federated.kmeans import Centres, assign
from fedsc.federated.query import Ask, Question, Sums, as_array, as_names, together

CONTINGENCY = "contingency"
SPREAD = "spread"

_ROWS = 4096  # cells compared with the means at a time


@dataclass(frozen=True)
class Embedded:
    """What a lab keeps to be asked about.

    Attributes
    ----------
    x
        Embedding, float (cells, d).
    labels
        Annotated type of every cell, str (cells,); ``None`` when none are known.
    """

    x: np.ndarray
    labels: np.ndarray | None


def contingency(
    labels: np.ndarray | None, clusters: np.ndarray, vocabulary: Sequence[str] | np.ndarray, k: int
) -> Sums:
    """Count cells by label and cluster.

    Parameters
    ----------
    labels
        str (cells,); ``""`` does not count the cell, ``None`` counts none.
    clusters
        int (cells,), from 0 to k − 1.
    vocabulary
        The labels the labs agreed on, str (L,), unique, in any order.
    k
        Number of clusters.

    Returns
    -------
    Sums
        ``table``, int64 (L, k).

    Raises
    ------
    DataError
        If a label is not in the vocabulary.
    """
    table = np.zeros((len(vocabulary), k), dtype=np.int64)
    if labels is not None:
        row = {str(label): i for i, label in enumerate(vocabulary)}
        labelled = np.asarray(labels, dtype=str) != ""
        labels, clusters = np.asarray(labels, dtype=str)[labelled], clusters[labelled]
        names, codes = np.unique(labels, return_inverse=True)
        unknown = [name for name in names if name not in row]
        if unknown:
            odd = f"{len(unknown)} labels are not among the {len(row)} the labs agreed on"
            advice = "score with every lab's labels in the vocabulary"
            raise DataError(f"{odd}, e.g. '{unknown[0]}'; {advice}", f"{odd}; {advice}")
        rows = np.array([row[name] for name in names], dtype=np.int64)[codes]
        np.add.at(table, (rows, clusters), 1)
    return {"table": table}


def spread(x: np.ndarray, clusters: np.ndarray, means: np.ndarray) -> Sums:
    """Sum deviations from the clusters' means, and simplified silhouettes.

    Parameters
    ----------
    x
        Embedding, float (cells, d).
    clusters
        int (cells,), from 0 to k − 1.
    means
        Of the clusters, float64 (k, d).

    Returns
    -------
    Sums
        By cluster: ``n`` int64 (k,); ``sum`` Σ(x − mean) float64 (k, d); ``squares`` Σ‖x − mean‖²
        and ``silhouette`` Σs float64 (k,).
    """
    k = len(means)
    n = np.bincount(clusters, minlength=k).astype(np.int64)
    total, squares, silhouette = np.zeros(means.shape), np.zeros(k), np.zeros(k)
    for start in range(0, len(x), _ROWS):
        batch = x[start : start + _ROWS].astype(np.float64)
        own = clusters[start : start + _ROWS]
        deviation = batch - means[own]
        np.add.at(total, own, deviation)
        a2 = np.square(deviation).sum(axis=1)
        squares += np.bincount(own, a2, minlength=k)
        if k > 1:
            rows = np.arange(len(batch))
            far = np.square(batch).sum(axis=1)[:, None] + np.square(means).sum(axis=1)
            far -= 2 * batch @ means.T
            far[rows, own] = np.inf
            # The nearest other mean by the fast formula, its distance by the exact one.
            b = np.linalg.norm(batch - means[far.argmin(axis=1)], axis=1)
            a = np.sqrt(a2)
            larger = np.maximum(a, b)
            s = np.divide(b - a, larger, out=np.zeros(len(batch)), where=larger > 0)
            silhouette += np.bincount(own, s, minlength=k)
    return {"n": n, "sum": total, "squares": squares, "silhouette": silhouette}


def learn_scores(
    ask: Ask,
    found: Centres,
    vocabulary: Sequence[str] | np.ndarray,
) -> dict[str, float | None]:
    """Score a clustering of the pool, in one question.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`fedsc.federated.answers.answer`.
    found
        The clustering.
    vocabulary
        Every label of every lab, str (L,), unique; empty when none are known.

    Returns
    -------
    dict
        ``ari``, ``nmi`` and ``rare_f1`` over the labelled cells, ``simplified_silhouette`` and
        ``calinski_harabasz`` over all; ``None`` where one is undefined (no labels, a single
        cluster, as many clusters as cells).
    """
    centres = found.centres
    ari = nmi = rare = None
    spreads = Question(SPREAD, {"centres": centres})
    if len(vocabulary):
        names = as_array(vocabulary)
        labels = Question(CONTINGENCY, {"centres": centres, "vocabulary": names})
        ask = together(ask, spreads, labels)
        table = ask(labels)["table"]
        if table.any():
            ari, nmi = ari_from_contingency(table), nmi_from_contingency(table)
            rare = rare_type_f1(table)
    total = ask(spreads)
    separable = 1 < len(centres) < total["n"].sum()
    return {
        "ari": ari,
        "nmi": nmi,
        "rare_f1": rare,
        "simplified_silhouette": silhouette_from_spread(total) if separable else None,
        "calinski_harabasz": calinski_harabasz_from_spread(total, centres) if separable else None,
    }


def ari_from_contingency(table: np.ndarray) -> float:
    """Give the adjusted Rand index, as ``sklearn.metrics.adjusted_rand_score``.

    In Python's integers: a million cells make 10¹² pairs, and products of those overflow 64 bits.
    """
    n = int(table.sum())
    both = _sum_of_squares(table)
    same_label = _sum_of_squares(table.sum(axis=1))
    same_cluster = _sum_of_squares(table.sum(axis=0))
    # Ordered pairs of different cells: together in both, in one alone, in neither.
    tp = both - n
    fn, fp = same_label - both, same_cluster - both
    tn = n * n - both - fn - fp
    if fn == 0 and fp == 0:
        return 1.0
    return 2 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))


def nmi_from_contingency(table: np.ndarray) -> float:
    """Give the normalised mutual information, as ``sklearn.metrics.normalized_mutual_info_score``.

    Mutual information over the arithmetic mean of both entropies.
    """
    n = float(table.sum())
    labels, clusters = table.sum(axis=1), table.sum(axis=0)
    if np.count_nonzero(labels) <= 1 and np.count_nonzero(clusters) <= 1:
        return 1.0
    i, j = np.nonzero(table)
    p = table[i, j] / n
    information = p * np.log(p / (labels[i] / n) / (clusters[j] / n))
    mutual = math.fsum(information[np.abs(information) >= np.finfo(np.float64).eps])
    if mutual <= 0:
        return 0.0
    return mutual / ((_entropy(labels) + _entropy(clusters)) / 2)


def silhouette_from_spread(total: Sums) -> float:
    """Give the mean simplified silhouette (Hruschka, de Castro & Campello 2004).

    s = (b − a) / max(a, b) with a the distance to the mean of the own cluster and b to the
    nearest other mean, in place of mean distances to all cells of a cluster; 0 for a cell alone
    in its cluster, as scikit-learn has it. Not comparable with ``silhouette_score``: usually
    higher.
    """
    of_many = total["n"] > 1
    return float(total["silhouette"][of_many].sum() / total["n"].sum())


def calinski_harabasz_from_spread(total: Sums, means: np.ndarray) -> float:
    """Give the Calinski–Harabasz index, as ``sklearn.metrics.calinski_harabasz_score``.

    Exact also when ``means``, what the deviations were summed about, are not quite the means of
    the clusters (a k-means that stopped within its tolerance).

    Parameters
    ----------
    total
        Of :func:`spread`, over at least two non-empty clusters.
    means
        float64 (k, d).
    """
    some = total["n"] > 0
    n = total["n"][some].astype(np.float64)
    offset = total["sum"][some] / n[:, None]
    within = float(total["squares"][some].sum() - (n * np.square(offset).sum(axis=1)).sum())
    true_means = means[some] + offset
    pooled = n @ true_means / n.sum()
    between = float(n @ np.square(true_means - pooled).sum(axis=1))
    if within <= 0:
        return 1.0
    return between * float(n.sum() - len(n)) / (within * (len(n) - 1))


def _contingency(lab: Embedded, question: Question) -> Sums:
    centres, vocabulary = question.arrays["centres"], as_names(question.arrays["vocabulary"])
    return contingency(lab.labels, assign(centres, lab.x), vocabulary, len(centres))


def _spread(lab: Embedded, question: Question) -> Sums:
    centres = question.arrays["centres"]
    return spread(lab.x, assign(centres, lab.x), centres)


ANSWERS: dict[str, Callable[[Embedded, Question], Sums]] = {
    CONTINGENCY: _contingency,
    SPREAD: _spread,
}


def _sum_of_squares(counts: np.ndarray) -> int:
    return sum(int(count) ** 2 for count in counts.flat)


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def check_contingency(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`contingency`: a cell has one label or none."""
    return at_most("the total of table", sums["table"].sum(), asked.n_cells)


def check_spread(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`spread`."""
    n, total, squares = sums["n"], sums["sum"], sums["squares"]
    means = asked.question.arrays["centres"]
    lengths = np.linalg.norm(means, axis=1)
    size = 1 + lengths.max()
    return finding(
        adds_up("n", n.sum(), asked.n_cells),
        at_least("squares", squares, 0),
        at_most("squares", squares, n * np.square(LARGEST * np.sqrt(means.shape[1]) + lengths)),
        at_most(
            "the length of sum",
            np.linalg.norm(total, axis=1),
            np.sqrt(n * np.maximum(squares, 0)) * (1 + 1e-6) + 1e-9 * n * size,
        ),
        within("silhouette", sums["silhouette"], n, -1.0, 1.0),
    )


CHECKS: dict[str, Check] = {CONTINGENCY: check_contingency, SPREAD: check_spread}
