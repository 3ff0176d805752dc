"""Finish: the pool's clusters go out, and each lab writes them into a copy of its own file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedsc.clusters import Clusters
from fedsc.federated.markers import Markers
from protocol.ask import about_clusters, clusters_of, vocabulary_of
from protocol.checks import BadReply
from protocol.records import key, pack_arrays, unpack_arrays


@dataclass(frozen=True)
class Results:
    """What a lab is told at the end.

    Attributes
    ----------
    clusters
        Of the pool, their types and the map.
    markers
        The first genes of every cluster.
    vocabulary
        Names the markers' positions mean.
    about
        What has to be known to use the results.
    options
        Of the run, by name.
    """

    clusters: Clusters
    markers: Markers
    vocabulary: np.ndarray
    about: Mapping[str, Any]
    options: Mapping[str, Any]


def pack_results(results: Results) -> RecordDict:
    """Put the results into a message."""
    return RecordDict(
        {
            **about_clusters(results.clusters, results.vocabulary),
            "markers": pack_arrays(vars(results.markers)),
            "about": ConfigRecord(dict(results.about)),
            "options": ConfigRecord(dict(results.options)),
        }
    )


def unpack_results(content: RecordDict) -> Results:
    """Take the results out of a message."""
    return Results(
        clusters=clusters_of(content),
        markers=Markers(**unpack_arrays(content["markers"])),
        vocabulary=vocabulary_of(content),
        about=dict(content["about"]),
        options=dict(content["options"]),
    )


def pack_finished(lab: str, copy: str) -> RecordDict:
    """Tell the name of the copy; not where the lab keeps its files."""
    return RecordDict({key("finished", lab): ConfigRecord({"copy": copy})})


def read_finished(content: RecordDict, lab: str) -> str:
    """Take the name of the copy out of a reply.

    Raises
    ------
    BadReply
        If there is none that can be shown.
    """
    record = content.get(key("finished", lab))
    name = record.get("copy") if isinstance(record, ConfigRecord) else None
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable()):
        raise BadReply("it does not name the copy it should have written")
    return name


_LONGEST = 255  # of a file's name
