"""Cell types for clusters: labs that are annotated count, labs that are not gain.

The labs' counts of cells by type and cluster add up; every cluster takes the type that most of its
annotated cells have, and the share of those that have it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedsc.federated.bounds import Check
from fedsc.federated.clustered import Clustered
from fedsc.federated.metrics import check_contingency, contingency
from fedsc.federated.query import Ask, Question, Sums, as_array, as_names

TYPES = "types"
UNKNOWN = "unknown"

LEAST_CELLS = 10
"""Fewer annotated cells name no cluster: without integration a cluster is often one lab's own, and
the few cells of other labs in it are the odd ones."""


@dataclass(frozen=True)
class ClusterTypes:
    """What the clusters are.

    Attributes
    ----------
    names
        Type of each cluster, str (k,); :data:`UNKNOWN` where the share is under the threshold or
        fewer than :data:`LEAST_CELLS` are annotated.
    shares
        Share of a cluster's annotated cells that have its commonest type, float64 (k,); 0 where
        none is annotated.
    annotated
        Annotated cells of each cluster, int64 (k,).
    """

    names: np.ndarray
    shares: np.ndarray
    annotated: np.ndarray


def count_types(lab: Clustered, question: Question) -> Sums:
    """Count the lab's cells by type and cluster: ``table``, int64 (L, k).

    Parameters
    ----------
    lab
        Clusters below k.
    question
        Holds ``k`` int64 (1,) and ``vocabulary``, the bytes of the L types the labs agreed on.

    Raises
    ------
    DataError
        If a label is not in the vocabulary.
    """
    vocabulary = as_names(question.arrays["vocabulary"])
    return contingency(lab.labels, lab.clusters, vocabulary, int(question.arrays["k"][0]))


ANSWERS: dict[str, Callable[[Clustered, Question], Sums]] = {TYPES: count_types}


def learn_types(
    ask: Ask, vocabulary: Sequence[str] | np.ndarray, k: int, threshold: float = 0.5
) -> ClusterTypes:
    """Find each cluster's type, in one question, or none where no lab is annotated.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    vocabulary
        Every type of every lab, str (L,), unique.
    k
        Number of clusters.
    threshold
        As in :func:`types_from_counts`.
    """
    if not len(vocabulary):
        return types_from_counts(np.zeros((0, k), dtype=np.int64), vocabulary, threshold)
    table = ask(types_question(vocabulary, k))["table"]
    return types_from_counts(table, vocabulary, threshold)


def types_question(vocabulary: Sequence[str] | np.ndarray, k: int) -> Question:
    """Give the question :func:`learn_types` puts."""
    names = as_array(vocabulary)
    return Question(TYPES, {"vocabulary": names, "k": np.array([k], dtype=np.int64)})


def types_from_counts(
    table: np.ndarray, vocabulary: Sequence[str] | np.ndarray, threshold: float = 0.5
) -> ClusterTypes:
    """Name every cluster by its commonest type; of equally common ones, the first by name.

    Parameters
    ----------
    table
        Cells by type and cluster, int64 (L, k).
    vocabulary
        Names of the types, unique, (L,).
    threshold
        A type with a smaller share of the annotated cells does not name a cluster; from 0 to 1.
    """
    vocabulary = np.asarray(vocabulary, dtype=str)
    by_name = np.argsort(vocabulary)
    annotated = table.sum(axis=0)
    if not len(vocabulary):
        return ClusterTypes(np.full(len(annotated), UNKNOWN), np.zeros(len(annotated)), annotated)
    commonest = by_name[table[by_name].argmax(axis=0)]
    shares = table.max(axis=0) / np.maximum(annotated, 1)
    known = (annotated >= LEAST_CELLS) & (shares >= threshold)
    return ClusterTypes(np.where(known, vocabulary[commonest], UNKNOWN), shares, annotated)


def alike(names: Sequence[str] | np.ndarray) -> list[tuple[str, ...]]:
    """Find types that differ only in upper and lower case or in white space.

    They are counted as different types, since nobody asked the labs; a person should be told.

    Returns
    -------
    list
        Sorted groups of two names or more.
    """
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in map(str, names):
        groups["".join(name.split()).casefold()].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


CHECKS: dict[str, Check] = {TYPES: check_contingency}
