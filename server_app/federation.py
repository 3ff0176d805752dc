"""The labs behind a Flower grid: which node hosts which, asking them, hearing who failed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from logging import INFO, WARNING

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from client_app import messages
from fedsc.config import Config
from fedsc.errors import DataError, RunError
from fedsc.federated.query import Question, Sums, add


@dataclass(frozen=True)
class About:
    """What a lab told of itself.

    Attributes
    ----------
    node
        Flower node that hosts it.
    cells
        Number of its cells.
    genes
        Names of the genes it measured.
    kind
        ``"counts"`` or ``"lognorm"``.
    types
        Names of its cell types; empty when it has no labels.
    siblings
        How many labs the simulation has that it is a part of; 0 for a real lab.
    """

    node: int
    cells: int
    genes: np.ndarray
    kind: str
    types: tuple[str, ...]
    siblings: int

    @property
    def simulated(self) -> bool:
        """Whether the server's process may read its cells too."""
        return self.siblings > 0


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


class LabsLost(RunError):
    """Labs failed to answer a question that needs every lab."""

    def __init__(self, failures: dict[str, str]) -> None:
        super().__init__("; ".join(f"lab {lab}: {why}" for lab, why in failures.items()))
        self.labs = list(failures)


@dataclass
class Federation:
    """Talk to labs by name.

    Attributes
    ----------
    grid
        Flower's connection to the nodes.
    config
        Options of the run.
    run
        ``run`` record that every message carries: name and folder of the run.
    labs
        Labs that take part, sorted by name.
    """

    grid: Grid
    config: Config
    run: dict[str, str]
    labs: dict[str, About] = field(default_factory=dict)
    _nodes: set[int] = field(default_factory=set)

    @property
    def min_labs(self) -> int:
        """Fewest labs a round needs: as configured, else half of those that take part."""
        return self.config.min_labs or max(1, (len(self.labs) + 1) // 2)

    def gather(self) -> None:
        """Wait until enough labs have described themselves.

        Raises
        ------
        RunError
            If too few labs are there after ``round-timeout`` seconds, or none can use its data.
        DataError
            If labs bring different kinds of values.
        """
        deadline = time.monotonic() + self.config.round_timeout
        while True:
            refused = self.welcome_new_nodes()
            # A simulation's nodes come up one by one; its result must not depend on how fast.
            siblings = max((about.siblings for about in self.labs.values()), default=0)
            if len(self.labs) >= max(1, self.config.min_labs, siblings):
                break
            if refused:
                raise RunError(f"no lab can take part: {'; '.join(refused)}")
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(self.labs)} labs present after {self.config.round_timeout:.0f} s, "
                    f"min-labs = {self.config.min_labs}: start more labs or lower min-labs"
                )
            time.sleep(1.0)
        kinds = {about.kind for about in self.labs.values()}
        if len(kinds) > 1:
            sides = "; ".join(
                f"{kind}: {', '.join(n for n, a in self.labs.items() if a.kind == kind)}"
                for kind in sorted(kinds)
            )
            raise DataError(
                f"labs bring different kinds of values ({sides}); bring raw counts everywhere"
            )

    def welcome_new_nodes(self) -> list[str]:
        """Ask nodes not seen before for their labs; a lab may join in any round.

        Returns
        -------
        list of str
            Why nodes have no usable lab, in words.
        """
        new = sorted(set(self.grid.get_node_ids()) - self._nodes)
        self._nodes.update(new)
        refused = []
        for reply in self._send({node: RecordDict() for node in new}, messages.DESCRIBE, ""):
            if reply.has_error():
                refused.append(_last_line(reply.error.reason))
                continue
            node, content = reply.metadata.src_node_id, reply.content
            if "error" in content:
                refused.append(str(content["error"]["reason"]))
            for name in messages.labs_in(content, "about"):
                if name in self.labs:
                    refused.append(f"two nodes call themselves {name}")
                    continue
                about = content[messages.key("about", name)]
                self.labs[name] = About(
                    node,
                    int(about["cells"]),
                    messages.unpack_names(about["genes"]),
                    str(about["kind"]),
                    tuple(messages.unpack_names(about["types"])),
                    int(about["siblings"]),
                )
                log(INFO, "lab %s: %d cells, %s", name, about["cells"], about["kind"])
        self.labs = dict(sorted(self.labs.items()))
        for reason in refused:
            log(WARNING, "a node cannot take part: %s", reason)
        return refused

    def exclude(self, lost: LabsLost) -> None:
        """Go on without labs.

        Raises
        ------
        RunError
            If fewer than ``min-labs`` are left.
        """
        needed = self.min_labs
        for lab in lost.labs:
            del self.labs[lab]
        if len(self.labs) < needed:
            raise RunError(f"too few labs are left ({len(self.labs)} of {needed}): {lost}")
        log(WARNING, "going on without %s", lost)

    def ask(self, subject: str, records: RecordDict) -> Callable[[Question], Sums]:
        """Give an ``Ask`` over all labs about one subject (see ``fedsc.federated.query``).

        Parameters
        ----------
        subject
            ``"expression"``, ``"cells"`` or ``"embedding"``.
        records
            What the labs need besides the question.

        Returns
        -------
        callable
            Raises :class:`LabsLost` when a lab does not answer.
        """

        def ask(question: Question) -> Sums:
            content = messages.pack_question(question, subject)
            content.update(records)
            answers = self.tell_all(messages.ASK, content)
            return add(
                [
                    messages.unpack_arrays(content[messages.key("sums", lab)])
                    for lab, content in answers.records.items()
                ]
            )

        return ask

    def tell_all(self, message_type: str, content: RecordDict) -> Answers:
        """Send the same to every lab.

        Raises
        ------
        LabsLost
            If a lab does not answer.
        """
        nodes = {about.node for about in self.labs.values()}
        replies = self._send(dict.fromkeys(nodes, content), message_type, "")
        answers = self.sort(replies, list(self.labs))
        if answers.failures:
            raise LabsLost(answers.failures)
        return answers

    def address(
        self, contents: dict[str, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        """Make one message per node from records per lab; all get the ``run`` record."""
        nodes: dict[int, RecordDict] = {}
        for lab, content in contents.items():
            nodes.setdefault(self.labs[lab].node, RecordDict()).update(content)
        return self._address(nodes, message_type, group)

    def sort(self, replies: Iterable[Message], asked: list[str]) -> Answers:
        """Sort replies by lab, whatever order they came in; a lab without one has failed."""
        records: dict[str, RecordDict] = {}
        failures: dict[str, str] = {}
        of_node: dict[int, str] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                of_node[node] = _last_line(reply.error.reason)
                continue
            content = reply.content
            if "error" in content:
                of_node[node] = str(content["error"]["reason"])
            for name in content:
                what, _, lab = name.partition(":")
                # A node speaks for its own labs only.
                if lab not in asked or self.labs[lab].node != node:
                    continue
                if what == "error":
                    failures[lab] = str(content[name]["reason"])
                else:
                    records.setdefault(lab, RecordDict())[name] = content[name]
        for lab in asked:
            if lab not in records and lab not in failures:
                failures[lab] = of_node.get(self.labs[lab].node, "did not answer")
        kept = {lab: records[lab] for lab in sorted(records) if lab not in failures}
        return Answers(kept, dict(sorted(failures.items())))

    def _send(
        self, contents: dict[int, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        return list(
            self.grid.send_and_receive(
                self._address(contents, message_type, group), timeout=self.config.round_timeout
            )
        )

    def _address(
        self, contents: dict[int, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        out = []
        for node, content in sorted(contents.items()):
            own = RecordDict(dict(content))
            own["run"] = ConfigRecord({**self.run, **dict(own.get("run", {}))})
            out.append(Message(own, dst_node_id=node, message_type=message_type, group_id=group))
        return out


def _last_line(text: str) -> str:
    """Cut a traceback to the sentence at its end."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "failed without a reason"
