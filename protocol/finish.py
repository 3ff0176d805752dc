"""Finish: the pool's clusters go out, and each lab writes them into a copy of its own file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from protocol.records import key, pack_arrays, unpack_arrays


def pack_results(centres: np.ndarray | None, about: Mapping[str, str | int]) -> RecordDict:
    """Put the clusters' centres, where there are any, and what to know of them into a message."""
    arrays = {} if centres is None else {"centres": centres}
    return RecordDict({"clusters": pack_arrays(arrays), "about": ConfigRecord(dict(about))})


def unpack_results(content: RecordDict) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Take centres, float64 (k, d), and what to know of them out of a message."""
    return unpack_arrays(content["clusters"]).get("centres"), dict(content["about"])


def pack_finished(lab: str, copy: str) -> RecordDict:
    """Tell the name of the copy; not where the lab keeps its files."""
    return RecordDict({key("finished", lab): ConfigRecord({"copy": copy})})
