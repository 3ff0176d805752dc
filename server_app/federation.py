"""The labs behind a Flower grid: which node hosts which, asking them, hearing who failed."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from logging import INFO, WARNING

from flwr.app import DEFAULT_TTL, ConfigRecord, Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedsc.errors import DataError, RunError
from fedsc.federated.query import Ask, Question, Sums, add
from fedsc.options import FederationOptions
from protocol.ask import pack_question, read_sums
from protocol.checks import BadReply, last_line, reason_of
from protocol.describe import About, read_about
from protocol.records import ASK, DESCRIBE, key
from protocol.replies import Answers, sort_replies
from server_app.post import Clock, Post

_TRIES = 3  # before a run gives up on labs that cannot use their data


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
    options
        How many labs a round needs, and how long it waits.
    run
        ``run`` record that every message carries: name and folder of the run.
    labs
        Labs that take part, sorted by name.
    questions
        How many have been put, by what they were for.
    clock
        Tells the time and waits.
    """

    grid: Grid
    options: FederationOptions
    run: dict[str, str]
    labs: dict[str, About] = field(default_factory=dict)
    questions: Counter[str] = field(default_factory=Counter)
    clock: Clock = time
    _present: set[int] = field(default_factory=set)
    _described: set[int] = field(default_factory=set)  # nodes that need not be asked again
    _refused: dict[int, int] = field(default_factory=dict)  # by node, how often
    _turn: int = 0

    def __post_init__(self) -> None:
        self._post = Post(self.grid, self.clock)

    @property
    def min_labs(self) -> int:
        """Fewest labs a round needs: as configured, else half of those that take part."""
        return self.options.min_labs or max(1, (len(self.labs) + 1) // 2)

    def gather(self) -> None:
        """Wait until enough labs have described themselves.

        Raises
        ------
        RunError
            If too few labs are there after ``round-timeout`` seconds, or none can use its data.
        DataError
            If labs bring different kinds of values.
        """
        deadline = self.clock.monotonic() + self.options.round_timeout
        while True:
            refused = self.welcome()
            # A simulation's nodes come up one by one; its result must not depend on how fast.
            siblings = max((about.siblings for about in self.labs.values()), default=0)
            if len(self.labs) >= max(1, self.options.min_labs, siblings):
                break
            if refused and min(self._refused.get(node, 0) for node in self._present) >= _TRIES:
                raise RunError(f"no lab can take part: {'; '.join(refused)}")
            if self.clock.monotonic() > deadline:
                raise RunError(
                    f"{len(self.labs)} labs present after {self.options.round_timeout:.0f} s, "
                    f"min-labs = {self.options.min_labs}: start more labs or lower min-labs"
                )
            self.clock.sleep(1.0)
        kinds = {about.kind for about in self.labs.values()}
        if len(kinds) > 1:
            sides = "; ".join(
                f"{kind}: {', '.join(n for n, a in self.labs.items() if a.kind == kind)}"
                for kind in sorted(kinds)
            )
            raise DataError(
                f"labs bring different kinds of values ({sides}); bring raw counts everywhere"
            )

    def await_labs(self) -> None:
        """Wait until as many labs as a round needs are connected; welcome those that come.

        Raises
        ------
        RunError
            If too few are after ``round-timeout`` seconds.
        """
        deadline = self.clock.monotonic() + self.options.round_timeout
        while True:
            self.welcome()
            away = [lab for lab, about in self.labs.items() if about.node not in self._present]
            if len(self.labs) - len(away) >= self.min_labs:
                return
            if self.clock.monotonic() > deadline:
                raise RunError(
                    f"{len(self.labs) - len(away)} of {len(self.labs)} labs are connected, "
                    f"{self.min_labs} needed; not connected: {', '.join(away)}"
                )
            log(WARNING, "waiting for %s: not connected", ", ".join(away), extra={"labs": away})
            self.clock.sleep(5.0)

    def welcome(self) -> list[str]:
        """Ask connected nodes for their labs; a lab may join or come back in any round.

        A node that cannot take part is asked again after 2, 4, then every 8 turns.

        Returns
        -------
        list of str
            Why nodes cannot take part, in words.
        """
        self._present = self._post.present()
        self._described &= self._present
        due = [
            node
            for node in sorted(self._present - self._described)
            if self._turn % min(8, 2 ** self._refused.get(node, 0)) == 0
        ]
        self._turn += 1
        refused = []
        for reply in self._send({node: RecordDict() for node in due}, DESCRIBE, ""):
            node = reply.metadata.src_node_id
            reasons = self._admit(node, reply)
            if reasons:
                self._refused[node] = self._refused.get(node, 0) + 1
                refused += reasons
            else:
                self._described.add(node)
        self.labs = dict(sorted(self.labs.items()))
        for reason in refused:
            log(WARNING, "a node cannot take part: %s", reason)
        return refused

    def _admit(self, node: int, reply: Message) -> list[str]:
        """Take up the labs of a node, or say why not."""
        if not reply.has_content():
            return [last_line(reply.error.reason)]
        reasons = []
        for name in reply.content:
            what, _, lab = name.partition(":")
            if what == "error":
                reasons.append(reason_of(reply.content[name]))
            if what != "about":
                continue
            try:
                about = read_about(lab, node, reply.content[name])
            except BadReply as bad:
                reasons.append(str(bad))
                continue
            before = self.labs.get(lab)
            if before is not None and before.node in self._present and before.node != node:
                reasons.append(f"two nodes call themselves {lab}; stop one, or rename it")
                continue
            self.labs[lab] = about
            back = "" if before is None else " is back"
            log(
                INFO,
                "lab %s%s: %d cells, %s",
                lab,
                back,
                about.cells,
                about.kind,
                extra={"lab": lab, "cells": about.cells},
            )
        return reasons

    def exclude(self, lost: LabsLost) -> None:
        """Go on without labs.

        Raises
        ------
        RunError
            If fewer than ``min-labs`` are left.
        """
        needed = self.min_labs
        for lab in lost.labs:
            about = self.labs.pop(lab)
            if not about.simulated:
                self._described.discard(about.node)  # it may come back when it is well
        if len(self.labs) < needed:
            raise RunError(f"too few labs are left ({len(self.labs)} of {needed}): {lost}")
        log(WARNING, "going on without %s", lost, extra={"labs": lost.labs})

    def ask(
        self,
        subject: str,
        records: RecordDict,
        expect: Callable[[Question], Sums],
        purpose: str = "",
    ) -> Ask:
        """Give an ``Ask`` over all labs about one subject (see ``fedsc.federated.query``).

        Parameters
        ----------
        subject
            A constant of :mod:`protocol.ask`.
        records
            What the labs need besides the question.
        expect
            What a lab without cells answers: it shows what an answer looks like.
        purpose
            Under which questions are counted; ``""`` = the subject.

        Returns
        -------
        callable
            Raises :class:`LabsLost` when a lab does not answer as it should.
        """

        def ask(question: Question) -> Sums:
            content = pack_question(question, subject)
            content.update(records)
            expected = expect(question)
            self.questions[purpose or subject] += 1
            sums, failures = [], {}
            for lab, reply in self.tell_all(ASK, content).records.items():
                record = reply.get(key("sums", lab))
                try:
                    sums.append(read_sums(record, expected, self.labs[lab].cells))
                except BadReply as bad:
                    failures[lab] = f"{question.name}: {bad}"
            if failures:
                raise LabsLost(failures)
            return add(sums)

        return ask

    def tell_all(self, message_type: str, content: RecordDict) -> Answers:
        """Send the same to every lab.

        Raises
        ------
        LabsLost
            If a lab does not answer.
        """
        answers = self.tell(self.labs, message_type, content)
        if answers.failures:
            raise LabsLost(answers.failures)
        return answers

    def tell(self, labs: Iterable[str], message_type: str, content: RecordDict) -> Answers:
        """Send the same to some labs."""
        asked = list(labs)
        nodes = {self.labs[lab].node for lab in asked}
        return self._sorted(self._send(dict.fromkeys(nodes, content), message_type, ""), asked)

    def tell_each(
        self, contents: dict[str, RecordDict], message_type: str, group: str = ""
    ) -> Answers:
        """Send each lab its own records, in one message per node, and sort the replies by lab."""
        nodes: dict[int, RecordDict] = {}
        for lab, content in contents.items():
            nodes.setdefault(self.labs[lab].node, RecordDict()).update(content)
        return self._sorted(self._send(nodes, message_type, group), contents)

    def _sorted(self, replies: list[Message], asked: Iterable[str]) -> Answers:
        nodes = {lab: self.labs[lab].node for lab in asked}
        return sort_replies(replies, nodes, self._present)

    def _send(
        self, contents: dict[int, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        """Send messages and wait for replies, not for those of nodes that are not connected."""
        there = {node: content for node, content in contents.items() if node in self._present}
        return self._post.deliver(
            self._address(there, message_type, group), self.options.round_timeout
        )

    @property
    def _lifetime(self) -> float:
        """Seconds for which Flower keeps a message; it compares clocks, which may be a bit off."""
        return max(DEFAULT_TTL, 2 * self.options.round_timeout)

    def _address(
        self, contents: dict[int, RecordDict], message_type: str, group: str
    ) -> list[Message]:
        out = []
        for node, content in sorted(contents.items()):
            own = RecordDict(dict(content))
            own["run"] = ConfigRecord({**self.run, **dict(own.get("run", {}))})
            out.append(Message(own, node, message_type, group_id=group, ttl=self._lifetime))
        return out
