"""A lab's own record of what it has sent: ``sent.jsonl`` in its state of a run, a line an answer.

It says what was asked and what the answer was made of, never a value of it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsc.files import append_line, make_folder

SENT = "sent.jsonl"


@dataclass(frozen=True)
class Part:
    """A part of an answer.

    Attributes
    ----------
    name
        ``RECORD/NAME``, e.g. ``sums/detected``.
    dtype
        NumPy's name of an array's type; else Python's.
    shape
        Of an array; the length of a text, of bytes or of a list; ``()`` of a single value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What a lab has sent in answer to one message.

    Attributes
    ----------
    time
        UTC, ISO 8601.
    asked
        What was asked, in plain words.
    questions
        The same by its names in the code.
    round
        Of training; ``None`` outside of it.
    bytes
        Of the answer's content, without what a transport adds.
    holds
        What the answer was made of.
    """

    time: str
    asked: str
    questions: tuple[str, ...]
    round: int | None
    bytes: int
    holds: tuple[Part, ...]


def record(folder: Path, answer: Answer) -> None:
    """Add an answer to the record; it is on the disk when this returns.

    Raises
    ------
    RunError
        If the disk does not take it.
    """
    line = json.dumps(asdict(answer), ensure_ascii=False)
    append_line(make_folder(folder) / SENT, line.encode())


def read_sent(folder: Path) -> Iterator[Answer]:
    """Read the record, the oldest answer first; nothing where there is none.

    A line that is no answer, such as one that a full disk cut off, is passed over: what could not
    be recorded was not sent.
    """
    path = folder / SENT
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield _answer(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue


def _answer(line: dict[str, Any]) -> Answer:
    parts = (Part(part["name"], part["dtype"], tuple(part["shape"])) for part in line["holds"])
    return Answer(
        line["time"],
        line["asked"],
        tuple(line["questions"]),
        line["round"],
        line["bytes"],
        tuple(parts),
    )
