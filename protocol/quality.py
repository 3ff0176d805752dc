"""Quality control: which cells a lab works with stands in every message, once it is agreed on.

A lab that restarts or joins late so needs no earlier message.
"""

from dataclasses import asdict
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedsc.data.quality import CellFilter, Thresholds
from protocol.records import pack_names, unpack_names

_QUALITY = "quality"


def pack_filter(cells: CellFilter) -> RecordDict:
    """Put into a message which cells are kept."""
    told = {**asdict(cells.thresholds), "vocabulary": pack_names(cells.vocabulary)}
    return RecordDict({_QUALITY: ConfigRecord(told)})


def unpack_filter(content: RecordDict) -> CellFilter | None:
    """Take out of a message which cells are kept; ``None`` = all."""
    if _QUALITY not in content:
        return None
    told: dict[str, Any] = dict(content[_QUALITY])
    vocabulary = tuple(unpack_names(told.pop("vocabulary")))
    return CellFilter(Thresholds(**told), vocabulary)
