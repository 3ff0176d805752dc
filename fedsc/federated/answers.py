"""Everything a lab can be asked about its data: the whole of what a server can learn of it."""

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.aligned import Aligned
from fedsc.data.expression import Expression, Kind
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.federated import annotation, kmeans, markers, metrics, pca, preprocessing, quality
from fedsc.federated.clustered import Clustered
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import Question, Sums


def answer(data: Aligned | CellMatrix | Embedded | Clustered, question: Question) -> Sums:
    """Answer a question about a lab's expression, prepared cells, embedding or clusters in sums.

    Parameters
    ----------
    data
        What is asked about: aligned expression (gene moments, library sizes, quality control),
        prepared cells (principal components), embedding and labels (k-means, scores) or clusters
        (markers, cell types).
    question
        Named for the statistic.

    Raises
    ------
    ValueError
        If there is no such question about such data.
    DataError
        If the data do not suit the question.
    """
    if isinstance(data, Clustered):
        if question.name in annotation.ANSWERS:
            return annotation.answer(data, question)
        return markers.answer(data, question)
    if isinstance(data, Aligned):
        if question.name in quality.ANSWERS:
            return quality.answer(data, question)
        return preprocessing.answer(data, question)
    if isinstance(data, CellMatrix):
        return pca.answer(data, question)
    if question.name in metrics.ANSWERS:
        return metrics.answer(data, question)
    return kmeans.answer(data.x, question)


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


def no_clusters(vocabulary: np.ndarray, kind: Kind) -> Clustered:
    """Give the clustered cells of a lab without any."""
    return Clustered(no_expression(vocabulary, kind), np.empty(0, dtype=np.int64), None)
