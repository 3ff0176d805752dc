"""What left a lab, by question: from the lab's own record."""

import math
from collections.abc import Sequence

from fedsc.report.parts import Section, Table
from fedsc.sent import SENT, Answer

_MOST_PARTS = 8  # that are named one by one


def what_left(sent: Sequence[Answer]) -> Section:
    """Say how often each question was answered, with how many bytes, and what they were.

    Parameters
    ----------
    sent
        The oldest answer first.
    """
    kinds: dict[tuple[object, ...], list[Answer]] = {}
    for answer in sent:
        names = tuple(part.name for part in answer.holds)
        kinds.setdefault((answer.asked, names), []).append(answer)
    rows = [
        (
            answers[0].asked,
            f"{len(answers):,}",
            f"{sum(answer.bytes for answer in answers):,}",
            _holds(max(answers, key=lambda answer: answer.bytes)),
        )
        for answers in kinds.values()
    ]
    rows.append(("all", f"{len(sent):,}", f"{sum(answer.bytes for answer in sent):,}", ""))
    text = (
        f"The lab's own record, {SENT} in its state of the run, has a line for every answer that "
        "was sent: when, to which question, and the names, types and shapes of what it held; no "
        "value. This page was made before its last answer, the name of the copy, was sent. The "
        "record is kept by the app that the server's operator provides: it shows what an unchanged "
        "app has sent."
    )
    head = ("question", "answers", "bytes", "the largest answer held")
    table = Table("Answers sent, by question", head, rows, numbers=("answers", "bytes"))
    return Section("What left the lab", [text], tables=[table])


def _holds(answer: Answer) -> str:
    """Name what an answer held; of a network, how much."""
    if len(answer.holds) <= _MOST_PARTS:
        sizes = (f" {' × '.join(map(str, p.shape))}" if p.shape else "" for p in answer.holds)
        parts = zip(answer.holds, sizes, strict=True)
        return ", ".join(f"{part.name} ({part.dtype}{size})" for part, size in parts)
    values = sum(math.prod(part.shape) for part in answer.holds)
    return f"{len(answer.holds)} parts, {values:,} values in all"
