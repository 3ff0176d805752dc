"""The door of a real lab: an answer leaves once the lab's own record says what it holds."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import ArrayRecord, Message, RecordDict

from fedsc.sent import Answer, Part, record
from protocol.records import (
    ASK,
    DESCRIBE,
    EMBED,
    FINISH,
    TRAIN,
    content_bytes,
    unpack_arrays,
    what_and_lab,
)

_ASKED = {
    DESCRIBE: "what the lab has: number of cells, names of genes and cell types, kind of values",
    TRAIN: "the weights after a round of training, and how it went",
    EMBED: "to embed the cells and keep the embedding; how many have none of the model's genes",
    FINISH: "to write the results into a copy of the lab's file; the name of the copy",
}
_UNKNOWN = "what this version of FedSC does not know"


def record_answer(folder: Path, message: Message, content: RecordDict) -> None:
    """Write down what a lab is about to send, and what it was asked; no value of it.

    Parameters
    ----------
    folder
        Of the lab's private state of the run.
    message
        What the lab answers.
    content
        The lab's answer.

    Raises
    ------
    RunError
        If the lab's disk does not take it.
    """
    questions, asked = _asked(message)
    round_ = message.content["run"].get("round")
    record(
        folder,
        Answer(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            asked=asked,
            questions=questions,
            round=round_ if isinstance(round_, int) else None,
            bytes=content_bytes(content),
            holds=tuple(_parts(content)),
        ),
    )


def _asked(message: Message) -> tuple[tuple[str, ...], str]:
    """Give the names of what a message asks, and what that is in plain words."""
    kind = message.metadata.message_type
    if kind != ASK:
        return (kind,), _ASKED[kind]
    from fedsc.federated.answers import WORDS
    from fedsc.federated.query import parts
    from protocol.ask import unpack_question

    try:
        names = tuple(part.name for part in parts(unpack_question(message.content)[0]))
    except (KeyError, TypeError, ValueError):  # the answer is that it cannot be answered
        return (kind,), _UNKNOWN
    return names, "; ".join(WORDS.get(name, _UNKNOWN) for name in names)


def _parts(content: RecordDict) -> Iterator[Part]:
    for name, own in content.items():
        what, _ = what_and_lab(name)
        if isinstance(own, ArrayRecord):
            for of, array in sorted(unpack_arrays(own).items()):  # they come in any order
                yield Part(f"{what}/{of}", str(array.dtype), array.shape)
            continue
        for of, value in own.items():
            shape = (len(value),) if isinstance(value, str | bytes | list) else ()
            yield Part(f"{what}/{of}", type(value).__name__, shape)
