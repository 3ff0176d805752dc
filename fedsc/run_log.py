"""``log.jsonl`` of a run, read back: one JSON object a line, as the server has written it.

Time, level and message are in every line. ``phase`` says what begins; ``to_labs`` and ``from_labs``
are the bytes that messages have carried since the run was started, or was started anew.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A line of the log.

    Attributes
    ----------
    time
        When it was written.
    fields
        All it says, by name.
    """

    time: datetime
    fields: dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """What a phase took; of a resumed run, in all its parts together.

    Attributes
    ----------
    seconds
        From its beginning to the next, or to the last that is known of it.
    to_labs, from_labs
        Bytes of arrays, texts and numbers in messages; ``None`` where the log does not say.
    """

    seconds: float
    to_labs: int | None
    from_labs: int | None


def read_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Read a log; a line that is no entry, such as a half-written last one, is passed over."""
    for line in lines:
        try:
            fields = json.loads(line)
            yield Entry(datetime.fromisoformat(fields["time"]), fields)
        except (ValueError, KeyError, TypeError):
            continue


def read_metrics(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Read ``metrics.jsonl``, a row a round and lab; a half-written last line is passed over."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "round" in row:
            yield row


_BEGINNING = {"changed", "flower_run"}  # fields of the first lines of a run, resumed or not


def times_resumed(entries: Iterable[Entry]) -> int:
    """Count how often a run was started again."""
    return max(0, sum("flower_run" in entry.fields for entry in entries) - 1)


def phases(entries: Iterable[Entry]) -> dict[str, Phase]:
    """Sum up what each phase took, in the order in which they began."""
    found: dict[str, Phase] = {}
    began = last = carried = None  # of the phase; the line before; the last with traffic
    for entry in entries:
        if _BEGINNING & entry.fields.keys():  # the run stopped at the last line before
            _add(found, began, last, carried)
            began = carried = None
        elif "phase" in entry.fields:
            _add(found, began, entry, entry)
            began = carried = entry
        elif "to_labs" in entry.fields:
            carried = entry
        last = entry
    _add(found, began, last, carried)
    return found


def _add(
    found: dict[str, Phase], began: Entry | None, ended: Entry | None, carried: Entry | None
) -> None:
    if began is None or ended is None or ended is began:
        return
    name = str(began.fields["phase"])
    before = found.get(name, Phase(0.0, 0, 0))

    def more(so_far: int | None, key: str) -> int | None:
        first = began.fields.get(key)
        last = None if carried is None else carried.fields.get(key)
        if so_far is None or not isinstance(first, int) or not isinstance(last, int):
            return None
        return so_far + last - first

    found[name] = Phase(
        before.seconds + (ended.time - began.time).total_seconds(),
        more(before.to_labs, "to_labs"),
        more(before.from_labs, "from_labs"),
    )
