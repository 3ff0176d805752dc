"""Ask: a question about a lab's cells, answered in sums."""

from flwr.app import ConfigRecord, RecordDict

from fedsc.federated.query import Question, Sums
from protocol.checks import BadReply, read_arrays
from protocol.records import pack_arrays, unpack_arrays


def pack_question(question: Question, subject: str) -> RecordDict:
    """Put a question and what it is asked of (``expression``, ``cells``, ``embedding``)."""
    return RecordDict(
        {
            "question": ConfigRecord({"name": question.name, "subject": subject}),
            "question-arrays": pack_arrays(question.arrays),
        }
    )


def unpack_question(content: RecordDict) -> tuple[Question, str]:
    """Take question and subject out of a message."""
    header = content["question"]
    return Question(header["name"], unpack_arrays(content["question-arrays"])), header["subject"]


def read_sums(record: object, expected: Sums, n_cells: int) -> Sums:
    """Take the answer to a question out of a reply.

    Parameters
    ----------
    record
        Of the lab.
    expected
        What a lab without cells answers: names, shapes and types.
    n_cells
        Cells of the lab; no count is above it.

    Raises
    ------
    BadReply
        If it is not such an answer, or holds what no cells can add up to.
    """
    sums = read_arrays(record, expected)
    for name, array in sums.items():
        if (
            array.dtype.kind == "i"
            and array.size
            and not 0 <= array.min() <= array.max() <= n_cells
        ):
            raise BadReply(f"{name} counts {array.min()} to {array.max()} of {n_cells} cells")
    return sums
