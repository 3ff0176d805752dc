"""Everything a lab can be asked about its data: the whole of what a server can learn of it."""

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.aligned import Aligned
from fedsc.data.expression import Expression, Kind
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.federated import graph, kmeans, metrics, micro, pca, preprocessing
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import Question, Sums

_OF_EMBEDDED = metrics.ANSWERS | graph.ANSWERS
_OF_EMBEDDING = kmeans.ANSWERS | micro.ANSWERS


def answer(data: Aligned | CellMatrix | Embedded, question: Question) -> Sums:
    """Answer a question about a lab's expression, prepared cells or embedding in sums.

    Parameters
    ----------
    data
        What is asked about: aligned expression (gene moments, library sizes), prepared cells
        (principal components) or embedding and labels (k-means, graph clusters,
        scores).
    question
        Named for the statistic.

    Raises
    ------
    ValueError
        If there is no such question about such data.
    """
    if isinstance(data, Aligned):
        return preprocessing.answer(data, question)
    if isinstance(data, CellMatrix):
        return pca.answer(data, question)
    if question.name in _OF_EMBEDDED:
        return _OF_EMBEDDED[question.name](data, question)
    if question.name in _OF_EMBEDDING:
        return _OF_EMBEDDING[question.name](data.x, question)
    known = sorted(_OF_EMBEDDED | _OF_EMBEDDING)
    raise ValueError(f"unknown question '{question.name}', known are {known}")


def no_expression(vocabulary: np.ndarray, kind: Kind) -> Aligned:
    """Give the expression of a lab without cells: it answers with the right names and shapes."""
    import pandas as pd

    n_genes, none = len(vocabulary), np.empty(0, dtype=object)
    matrix = csr_matrix((0, n_genes), dtype=np.float32)
    cells = Expression(matrix, vocabulary, none, pd.DataFrame(index=none), kind)
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
