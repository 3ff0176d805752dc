"""What came back from the nodes, sorted by lab."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict

from protocol.checks import last_line, reason_of


@dataclass(frozen=True)
class Answers:
    """What came back from one message to some labs.

    Attributes
    ----------
    records
        Content of the reply, by lab, sorted by name.
    failures
        Reason in words, by lab.
    """

    records: dict[str, RecordDict]
    failures: dict[str, str]


def sort_replies(
    replies: Iterable[Message], nodes: Mapping[str, int], present: Collection[int]
) -> Answers:
    """Sort replies by lab, whatever order they came in; a lab without one has failed.

    Parameters
    ----------
    replies
        At most one per node.
    nodes
        Node of every lab that was asked.
    present
        Nodes that are connected.
    """
    records: dict[str, RecordDict] = {}
    failures: dict[str, str] = {}
    of_node: dict[int, str] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        if not reply.has_content():
            of_node[node] = last_line(reply.error.reason)
            continue
        content = reply.content
        if "error" in content:
            of_node[node] = reason_of(content["error"])
        for name in content:
            what, _, lab = name.partition(":")
            # A node speaks for its own labs only.
            if nodes.get(lab) != node:
                continue
            if what == "error":
                failures[lab] = reason_of(content[name])
            else:
                records.setdefault(lab, RecordDict())[name] = content[name]
    for lab, node in nodes.items():
        if lab not in records and lab not in failures:
            silent = "did not answer" if node in present else "is not connected"
            failures[lab] = of_node.get(node, silent)
    kept = {lab: records[lab] for lab in sorted(records) if lab not in failures}
    return Answers(kept, dict(sorted(failures.items())))
