"""Everything a lab can be asked about its data: the whole of what a server can learn of it."""

from fedsc.data.aligned import Aligned
from fedsc.data.preprocess import CellMatrix
from fedsc.federated import kmeans, metrics, pca, preprocessing
from fedsc.federated.metrics import Embedded
from fedsc.federated.query import Question, Sums


def answer(data: Aligned | CellMatrix | Embedded, question: Question) -> Sums:
    """Answer a question about a lab's expression, prepared cells or embedding in sums.

    Parameters
    ----------
    data
        What is asked about: aligned expression (gene moments, library sizes), prepared cells
        (principal components) or embedding and labels (k-means, scores).
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
    if question.name in metrics.ANSWERS:
        return metrics.answer(data, question)
    return kmeans.answer(data.x, question)
