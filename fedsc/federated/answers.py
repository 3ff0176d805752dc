"""Everything a lab can be asked about its data: the whole of what a server can learn of it.

Integration, whose answers change what a lab keeps, stands in ``harmony_lab.py`` and ``mixing.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.aligned import Aligned
from fedsc.data.expression import Expression, Kind
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.federated import (
    annotation,
    graph,
    harmony_lab,
    kmeans,
    markers,
    metrics,
    micro,
    mixing,
    pca,
    preprocessing,
    quality,
)
from fedsc.federated.bounds import Agreement, Asked, Check, finding
from fedsc.federated.clustered import Clustered
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import SEVERAL, Question, Sums, parts
from fedsc.tensors import by_owner, joined

Data = Aligned | CellMatrix | Embedded | Clustered
"""What a lab can be asked about: expression in the vocabulary's columns (gene moments, library
sizes, quality control), prepared cells (principal components), embedding and labels (k-means,
graph clusters, scores), clusters (markers, cell types)."""


def _of_embedding(
    answers: dict[str, Callable[[np.ndarray, Question], Sums]],
) -> dict[str, Callable[[Embedded, Question], Sums]]:
    """Let functions of an embedding answer for a lab that has labels too."""
    return {
        name: lambda lab, question, of=of: of(lab.x, question)  # type: ignore[misc]
        for name, of in answers.items()
    }


_ANSWERS: dict[type, dict[str, Callable[[Any, Question], Sums]]] = {
    Aligned: {**preprocessing.ANSWERS, **quality.ANSWERS},
    CellMatrix: {**pca.ANSWERS},
    Embedded: {
        **metrics.ANSWERS,
        **graph.ANSWERS,
        **_of_embedding(kmeans.ANSWERS),
        **_of_embedding(micro.ANSWERS),
    },
    Clustered: {**markers.ANSWERS, **annotation.ANSWERS},
}


CHECKS: dict[str, Check] = {
    **preprocessing.CHECKS,
    **quality.CHECKS,
    **pca.CHECKS,
    **metrics.CHECKS,
    **graph.CHECKS,
    **kmeans.CHECKS,
    **micro.CHECKS,
    **markers.CHECKS,
    **annotation.CHECKS,
    **harmony_lab.CHECKS,
    **mixing.CHECKS,
}
"""For every question, what says that an answer is impossible."""

WORDS: dict[str, str] = {
    "library-sizes": "how many cells have which library size",
    "gene-moments": "for each gene, cells, cells above zero, sums of values and of their squares",
    "clipped-squares": "for each gene, the sum of squares of clipped counts",
    quality.DEVIATIONS: "how many cells differ how much from the median quality",
    quality.PASSING: "how many cells pass quality control, and how many of them have each gene",
    pca.MEAN: "sums of the prepared cells",
    pca.SCATTER: "for each two genes, the sum of their products over prepared cells",
    kmeans.MEAN: "sums of the cells' embeddings and of their squares",
    kmeans.STEP: "for each centre of k-means, its cells and sums of their embeddings",
    metrics.CONTINGENCY: "how many cells of each type are in each k-means cluster",
    metrics.SPREAD: "for each k-means cluster, how far its cells are from its centre, in sums",
    micro.MEAN: "sums of the cells' directions in the embedding",
    micro.STEP: "for each micro-centre, its cells and sums of their directions",
    micro.SCALE: "how much farther the second and third micro-centre are, in one sum",
    graph.LINKS: "for each two micro-centres, how much the cells belong to both, in sums",
    graph.TALLY: "how many cells are in each graph cluster",
    graph.CONTINGENCY: "how many cells of each type are in each graph cluster",
    markers.MARKERS: "for each cluster and gene, cells, cells above zero, sums of values and of "
    "their squares",
    annotation.TYPES: "how many cells of each type are in each cluster",
    harmony_lab.CLUSTER: "Harmony: for each cluster, sums of the cells' directions and weights",
    harmony_lab.INTERCEPT: "Harmony: for each cluster, weighted sums of the cells' embeddings",
    harmony_lab.CORRECT: "Harmony: how far the cells have moved, and sums by cluster after it",
    mixing.MIXING: "how many cells are in each cluster, and how the lab's batches mix there",
}
"""Every question in plain words, for those who read what a lab has sent."""

_AGREEMENTS: dict[str, Agreement] = {**preprocessing.AGREEMENTS, **quality.AGREEMENTS}


def implausible(sums: Sums, asked: Asked, before: tuple[Sums, Asked] | None = None) -> str:
    """Say what in a lab's answer no cells can add up to; nothing when all is possible.

    Parameters
    ----------
    sums
        The answer: finite, with the names, shapes and types of every answer to the question, and
        no count below 0.
    asked
        What it answers.
    before
        The lab's last answer to a question of this name, and what it answered.
    """
    name = asked.question.name
    if name == SEVERAL:
        told = by_owner(sums)
        return finding(
            *(
                implausible(told[part.name], replace(asked, question=part))
                for part in parts(asked.question)
            )
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused
        if wrong := CHECKS[name](sums, asked):
            return wrong
    agree = _AGREEMENTS.get(name)
    return agree(sums, asked, *before) if agree and before else ""


def answer(data: Data, question: Question) -> Sums:
    """Answer a question in sums.

    Parameters
    ----------
    data
        What is asked about.
    question
        Named for the statistic.

    Raises
    ------
    ValueError
        If there is no such question about such data.
    DataError
        If the data do not suit the question.
    """
    if question.name == SEVERAL:
        return joined({part.name: answer(data, part) for part in parts(question)})
    answers = _ANSWERS[type(data)]
    if question.name not in answers:
        raise ValueError(f"unknown question '{question.name}', known are {sorted(answers)}")
    return answers[question.name](data, question)


def no_expression(vocabulary: np.ndarray, kind: Kind) -> Aligned:
    """Give the expression of a lab without cells: it answers with the right names and shapes."""
    import pandas as pd

    n_genes, none = len(vocabulary), np.empty(0, dtype=object)
    matrix = csr_matrix((0, n_genes), dtype=np.float32)
    cells = Expression(vocabulary, none, pd.DataFrame(index=none), kind, matrix)
    return Aligned(cells, np.arange(n_genes), n_genes)


def no_cells(preprocessing: Preprocessing) -> CellMatrix:
    """Give the prepared cells of a lab without any."""
    n_genes = len(preprocessing.genes)
    return CellMatrix(
        csr_matrix((0, n_genes), dtype=np.float32),
        preprocessing.mean.astype(np.float32),
        preprocessing.std.astype(np.float32),
        preprocessing.max_value,
        np.ones(n_genes, dtype=bool),
    )


def no_embedding(dimensions: int) -> Embedded:
    """Give the embedding of a lab without cells."""
    return Embedded(np.empty((0, dimensions), dtype=np.float32), None)


def no_clusters(vocabulary: np.ndarray, kind: Kind) -> Clustered:
    """Give the clustered cells of a lab without any."""
    return Clustered(no_expression(vocabulary, kind), np.empty(0, dtype=np.int64), None)
