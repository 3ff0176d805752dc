"""What came back from the nodes, sorted by lab."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict

from fedsc.errors import ConfigError, DataError, FedscError, with_place
from protocol.checks import is_final, last_line, reason_of
from protocol.records import what_and_lab


@dataclass(frozen=True)
class Answers:
    """What came back from one message to some labs.

    Attributes
    ----------
    records
        Content of the reply, by lab, sorted by name.
    failures
        Reason in words, by lab.
    final
        Labs that said that asking again would not help.
    """

    records: dict[str, RecordDict]
    failures: dict[str, str]
    final: frozenset[str] = field(default_factory=frozenset)

    def updated(self, later: "Answers") -> "Answers":
        """Put what labs answered when they were asked again in place of their failures."""
        records = self.records | later.records
        failures = {lab: why for lab, why in self.failures.items() if lab not in later.records}
        failures |= later.failures
        final = self.final | later.final
        return Answers(dict(sorted(records.items())), dict(sorted(failures.items())), final)


def pack_error(error: Exception, simulated: bool = False) -> ConfigRecord:
    """Say why a lab failed: in words made for others, or by no more than the kind of the error.

    The text of an error could quote the lab's data or say where its files are, so it stays in the
    lab's own log. An error in options or data stays when it is asked again; others may pass.

    Parameters
    ----------
    error
        What went wrong.
    simulated
        Whether the lab is simulated. The server may read its cells, and a person who simulates
        reads both logs on one screen: the whole text is told, and of a fault in the program, as an
        objective of one's own may have, where it arose.
    """
    reason = f"{type(error).__name__}: the lab's own log says more"
    if simulated:
        reason = str(error) if isinstance(error, FedscError) else with_place(error)
    elif isinstance(error, FedscError):
        reason = error.outside or reason
    return ConfigRecord({"reason": reason, "final": isinstance(error, ConfigError | DataError)})


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
    final: set[str] = set()
    for reply in replies:
        node = reply.metadata.src_node_id
        if not reply.has_content():
            of_node[node] = last_line(reply.error.reason)
            continue
        content = reply.content
        if "error" in content:
            of_node[node] = reason_of(content["error"])
            if is_final(content["error"]):
                final.update(lab for lab, own in nodes.items() if own == node)
        for name in content:
            what, lab = what_and_lab(name)
            # A node speaks for its own labs only.
            if nodes.get(lab) != node:
                continue
            if what == "error":
                failures[lab] = reason_of(content[name])
                if is_final(content[name]):
                    final.add(lab)
            else:
                records.setdefault(lab, RecordDict())[name] = content[name]
    for lab, node in nodes.items():
        if lab not in records and lab not in failures:
            silent = "did not answer" if node in present else "is not connected"
            failures[lab] = of_node.get(node, silent)
    kept = {lab: records[lab] for lab in sorted(records) if lab not in failures}
    return Answers(kept, dict(sorted(failures.items())), frozenset(final & failures.keys()))
