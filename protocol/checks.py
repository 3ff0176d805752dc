"""What holds for every reply: nothing in it is believed before it has passed here.

A lab may be broken, out of date or hostile. Whatever it sends, the outcome is either data of
exactly the names, types and sizes the server expects, or a :class:`BadReply` in words.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from pydantic import BaseModel, Field, ValidationError

from fedsc import tensors
from fedsc.data.expression import LONGEST_NAME, control_characters
from fedsc.errors import RunError
from protocol import records

MOST_CELLS = 1_000_000_000
MOST_NAMES = 1_000_000
_LONGEST_REASON = 500
_SLACK = 4  # times the size expected: beyond it, a reply is refused without a look inside

Finite = Annotated[float, Field(allow_inf_nan=False)]
Cells = Annotated[int, Field(ge=1, le=MOST_CELLS)]


class BadReply(RunError):
    """A lab's reply is not what was asked for."""


_Told = TypeVar("_Told", bound=BaseModel)


def reason_of(record: object) -> str:
    """Put what a node gives as a reason into one short line, whatever it is."""
    reason = record.get("reason") if isinstance(record, ConfigRecord) else record
    if not isinstance(reason, str):
        return "failed and gave no reason in words"
    visible = "".join(char if char.isprintable() else " " for char in reason[: 8 * _LONGEST_REASON])
    words = " ".join(visible.split())
    return words[:_LONGEST_REASON] or "failed without a reason"


def is_final(record: object) -> bool:
    """Say whether a node says that its failure is for good: asking again would not help."""
    return isinstance(record, ConfigRecord) and record.get("final") is True


def last_line(text: str | None) -> str:
    """Cut a traceback, if there is one, to the sentence at its end."""
    lines = [line for line in (text or "").strip().splitlines() if line.strip()]
    return reason_of(lines[-1]) if lines else "failed without a reason"


def read_arrays(record: object, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decode arrays that are exactly as expected; what is far too large is not decoded at all.

    Parameters
    ----------
    record
        What came.
    expected
        Names, shapes and types that are wanted; the values do not matter.

    Raises
    ------
    BadReply
        If anything differs, or a number is not finite.
    """
    if not isinstance(record, ArrayRecord) or set(record) != {records.TENSORS}:
        raise BadReply("no arrays where arrays should be")
    size, most = records.bytes_of(record[records.TENSORS]), _SLACK * tensors.packed_size(expected)
    if size > most:
        raise BadReply(f"its arrays take {size} bytes, should be at most {most}")
    try:
        arrays = records.unpack_arrays(record)
    except ValueError as error:
        raise BadReply(f"its arrays cannot be decoded: {reason_of(str(error))}") from error
    if others := arrays.keys() ^ expected.keys():
        raise BadReply(f"arrays {sorted(name[:60] for name in others)[:3]} do not fit")
    for name, like in expected.items():
        _check_array(name, arrays[name], like)
    if odd := tensors.not_finite(arrays):
        raise BadReply(f"{odd} holds NaN or infinity")
    return {name: arrays[name] for name in expected}


def _check_array(name: str, array: np.ndarray, like: np.ndarray) -> None:
    if array.shape != like.shape or array.dtype != like.dtype:
        raise BadReply(
            f"{name} is {array.dtype}{str(array.shape)[:60]}, should be {like.dtype}{like.shape}"
        )


def read_record(
    model: type[_Told], record: object, kind: type[ConfigRecord | MetricRecord], what: str
) -> _Told:
    """Validate a record of numbers and bytes.

    Parameters
    ----------
    model
        What should be in it.
    record
        What came.
    kind
        Flower's type of such a record.
    what
        What it is, for the message.

    Raises
    ------
    BadReply
        If it is missing, of another type, or holds something else.
    """
    if not isinstance(record, kind):
        raise BadReply(f"{what} is missing")
    try:
        return model.model_validate(dict(record))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:3]
        )
        raise BadReply(f"{what} is wrong: {wrong}") from None


def read_names(packed: bytes, what: str) -> np.ndarray:
    """Take names, one a line, out of bytes.

    A control character of one lab would end up in every lab's files, which cannot hold it or would
    be read back as other names.

    Raises
    ------
    BadReply
        If they are no text, too many, empty, too long or not unique, or hold control characters.
    """
    try:
        names = records.unpack_names(packed)
    except UnicodeDecodeError:
        raise BadReply(f"{what} are no text") from None
    if len(names) > MOST_NAMES or any(not 0 < len(name) <= LONGEST_NAME for name in names):
        raise BadReply(f"{what}: too many names, an empty one or one above {LONGEST_NAME} letters")
    if len(set(names)) != len(names):
        raise BadReply(f"{what} repeat a name")
    if found := control_characters("".join(names)):
        raise BadReply(f"{what}: a name holds the control character {found[0]!a}; rename it")
    return names
