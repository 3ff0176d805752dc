"""Who is there: nodes that come, describe their labs, leave and come back, or cannot take part."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from logging import INFO, WARNING

from flwr.app import DEFAULT_TTL, ConfigRecord, Message, RecordDict
from flwr.common import log

from fedsc.errors import ConfigError, DataError, RunError
from fedsc.options import FederationOptions
from protocol.checks import BadReply, is_final, last_line, reason_of
from protocol.describe import About, read_about
from protocol.records import DESCRIBE, labs_in, what_and_lab
from server_app.identity import Identities
from server_app.post import Clock, Post

_TRIES = 3  # before a node that fails for a reason that might pass counts as one that cannot


@dataclass
class Roster:
    """The labs that described themselves, and the nodes that are connected.

    Attributes
    ----------
    post
        Sends messages.
    options
        How many labs to wait for, how long, and what a lab may claim.
    run
        ``run`` record that every message carries: name and folder of the run.
    min_cells
        A lab with fewer cells is refused.
    clock
        Tells the time and waits.
    identities
        Hold the names of real labs against the register.
    common
        What every message carries besides.
    labs
        Every lab that described itself, sorted by name, whether connected now or not.
    present
        Nodes that are connected.
    """

    post: Post
    options: FederationOptions
    run: dict[str, str]
    min_cells: int = 1
    clock: Clock = time
    identities: Identities = field(default_factory=Identities)
    common: RecordDict = field(default_factory=RecordDict)
    labs: dict[str, About] = field(default_factory=dict)
    present: set[int] = field(default_factory=set)
    _described: set[int] = field(default_factory=set)  # nodes that need not be asked again
    _refused: dict[int, int] = field(default_factory=dict)  # by node, how often
    _cannot: dict[str, tuple[int, str]] = field(default_factory=dict)  # lab or node: node and why
    _generation: int = 0  # of descriptions
    _said: set[tuple[int, str]] = field(default_factory=set)
    _kind: str = ""
    _turn: int = 0

    @property
    def connected(self) -> list[str]:
        """Labs whose nodes are connected, sorted by name."""
        return [lab for lab, about in self.labs.items() if about.node in self.present]

    def free(self, lab: str) -> bool:
        """Say whether a lab is connected and owes no reply."""
        node = self.labs[lab].node
        return node in self.present and not self.post.busy(node)

    def gather(self) -> None:
        """Wait until the labs that are waited for have described themselves.

        A lab or node that says for good why it cannot take part is not waited for: the others go
        on, and it joins when it can.

        Raises
        ------
        RunError
            If labs are missing after ``round-timeout`` seconds, or none can use its data.
        ConfigError
            If labs are real and nobody said how many to wait for.
        DataError
            If labs bring different kinds of values.
        """
        deadline = self.clock.monotonic() + self.options.round_timeout
        while True:
            self.welcome()
            wanted = self._wanted()
            if self.labs and len(self.labs) + self._absent >= wanted:
                break
            if not self.labs and self.present and self.present <= self._hopeless:
                raise RunError(f"no lab can take part: {'; '.join(self.refusals)}")
            if self.clock.monotonic() > deadline:
                because = f" ({'; '.join(self.refusals)})" if self._cannot else ""
                raise RunError(
                    f"{len(self.labs)} labs present after {self.options.round_timeout:.0f} s, "
                    f"{wanted} waited for{because}: start more labs or lower wait-for-labs"
                )
            self.clock.sleep(1.0)
        self._refuse_simulated_among_real()
        if self.identities.register is None and not all(a.simulated for a in self.labs.values()):
            log(
                WARNING,
                "this server has no register of keys, so nodes are whatever lab they say they are; "
                "fedsc deploy makes one",
            )
        self._agree_on_kind()

    def welcome(self) -> None:
        """Ask connected nodes for their labs; a lab may join or come back at any time.

        A node that cannot take part is asked again after 2, 4, then every 8 turns, and what it
        says is logged once.
        """
        self.present = self.post.present()
        self._described &= self.present
        due = [
            node
            for node in sorted(self.present - self._described)
            if self._turn % min(8, 2 ** self._refused.get(node, 0)) == 0
            and not self.post.busy(node)
        ]
        self._turn += 1
        # A node that hangs must not keep the others; its answer counts when it comes. Nodes of
        # a simulation in this process are all there is.
        timeout = self.options.round_timeout
        if self.post.remote:
            timeout = min(timeout, self.options.describe_timeout)
        group = str(self._generation)
        asked = self.send({node: RecordDict() for node in due}, DESCRIBE, group, timeout)
        for reply in [*self.post.late(DESCRIBE, group), *asked]:
            self._hear(reply)
        self.labs = dict(sorted(self.labs.items()))

    def describe_anew(self, common: RecordDict) -> None:
        """Let every message carry something more, and every lab describe itself under it.

        Labs that are connected are waited for; others join when they are back.

        Raises
        ------
        RunError
            If after ``round-timeout`` seconds fewer than half of the labs have.
        """
        self.common, before = common, self.labs
        self.labs = {}
        self._described.clear()
        self._generation += 1
        deadline = self.clock.monotonic() + self.options.round_timeout
        while True:
            self.welcome()
            waited_for = [
                lab
                for lab, about in before.items()
                if lab not in self.labs and about.node in self.present - self._hopeless
            ]
            if not waited_for or self.clock.monotonic() > deadline:
                break
            self.clock.sleep(1.0)
        if 2 * len(self.labs) < len(before):
            reasons = self.refusals
            if waited_for:
                late = f"{', '.join(waited_for)} did not describe what quality control leaves them"
                reasons.append(f"{late} within {self.options.round_timeout:.0f} s")
            away = ", ".join(sorted(before.keys() - self.labs.keys()))
            raise RunError(
                f"{len(self.labs)} of {len(before)} labs are left: "
                f"{'; '.join(reasons) or f'{away}: not connected'}"
            )

    def send(
        self, contents: dict[int, RecordDict], message_type: str, group: str, timeout: float
    ) -> list[Message]:
        """Send messages and wait for replies, not for those of nodes that are not connected."""
        there = {node: content for node, content in contents.items() if node in self.present}
        return self.post.deliver(list(self._address(there, message_type, group)), timeout)

    def _address(
        self, contents: dict[int, RecordDict], message_type: str, group: str
    ) -> Iterator[Message]:
        # Flower compares clocks, which may be a bit off.
        lifetime = max(DEFAULT_TTL, 2 * self.options.round_timeout)
        for node, content in sorted(contents.items()):
            own = RecordDict({**self.common, **content})
            run = own.get("run", ConfigRecord())
            assert isinstance(run, ConfigRecord)
            own["run"] = ConfigRecord({**self.run, **run})
            yield Message(own, node, message_type, group_id=group, ttl=lifetime)

    def _wanted(self) -> int:
        """Give the number of labs and nodes to hear of before a run starts."""
        if self.options.wait_for_labs:
            return self.options.wait_for_labs
        real = [lab for lab, about in self.labs.items() if not about.simulated]
        if real:
            raise ConfigError(
                f"option wait-for-labs = 0, and lab {real[0]} is a real one: nobody can know how "
                "many will come; say how many to wait for, e.g. wait-for-labs = 2"
            )
        # A simulation's nodes come up one by one; its result must not depend on how fast.
        return max((about.siblings for about in self.labs.values()), default=1)

    def _hear(self, reply: Message) -> None:
        """Take up the labs of a node, or say why not."""
        node = reply.metadata.src_node_id
        if node in self._described:
            return  # it was asked twice
        reasons = dict(self._admit(node, reply))
        simulated = any(about.simulated for about in self.labs.values() if about.node == node)
        if not reasons or (simulated and all(final for final in reasons.values())):
            self._described.add(node)
        if reasons:
            self._refused[node] = self._refused.get(node, 0) + 1
        for reason in reasons:
            if (node, reason) not in self._said:
                self._said.add((node, reason))
                told = {"node": node, "reason": reason}
                log(WARNING, "a node cannot take part: %s", reason, extra=told)

    def _admit(self, node: int, reply: Message) -> Iterator[tuple[str, bool]]:
        """Take up labs; give reasons against others, and whether these are for good."""
        self._cannot.pop(f"node {node}", None)
        if not reply.has_content():
            yield self._refuse(node, f"node {node}", last_line(reply.error.reason), final=False)
            return
        for name in reply.content:
            what, lab = what_and_lab(name)
            record = reply.content[name]
            if what == "error":
                who = f"lab {lab[:40]}" if lab else f"node {node}"
                reason, final = reason_of(record), is_final(record)
                yield self._refuse(node, who, f"{lab[:40]}: {reason}" if lab else reason, final)
            if what != "about":
                continue
            try:
                about = read_about(lab, node, record)
            except BadReply as bad:
                yield self._refuse(node, f"node {node}", str(bad), final=False)
                continue
            before = self.labs.get(lab)
            # Who is not who it says it is does not count as a lab that is waited for.
            if stolen := self.identities.against(lab, about) or self._second_name(
                lab, about, labs_in(reply.content, "about")
            ):
                yield stolen, False
            elif before is not None and before.node in self.present and before.node != node:
                yield f"two nodes call themselves {lab}; stop one, or rename it", False
            elif against := self._against(lab, about):
                yield self._refuse(node, f"lab {lab}", against, final=True)
            else:
                self._take_up(lab, about, back=before is not None)

    def _second_name(self, lab: str, about: About, told: list[str]) -> str:
        """Say so when a node of a real lab has other names too."""
        if about.simulated:
            return ""
        known = [name for name, other in self.labs.items() if other.node == about.node]
        names = sorted({lab, *known, *told})
        if len(names) == 1:
            return ""
        few = ", ".join(name[:40] for name in names[:3]) + (" …" if len(names) > 3 else "")
        return f"node {about.node} calls itself {few}: the node of a real lab has one name"

    def _refuse(self, node: int, who: str, reason: str, final: bool) -> tuple[str, bool]:
        tried = self._refused.get(node, 0) + 1 >= _TRIES
        if final or (tried and not self.post.busy(node)):  # who is slow may come yet
            self._cannot[who] = node, reason
        return reason, final

    def _against(self, lab: str, about: About) -> str:
        """Say what speaks against a lab; nothing, mostly."""
        options = self.options
        if about.cells < self.min_cells:
            return f"lab {lab} has {about.cells} cells, fewer than min-cells = {self.min_cells}"
        for what, count, most in (
            ("cells", about.cells, options.max_cells),
            ("genes", len(about.genes), options.max_genes),
            ("types", len(about.types), options.max_types),
        ):
            if count > most:
                return f"lab {lab} claims {count} {what}, more than max-{what} = {most}"
        if len(about.types) > about.cells:
            return f"lab {lab} names {len(about.types)} cell types of {about.cells} cells"
        real = any(not other.simulated for other in self.labs.values())
        if self._kind and real and about.simulated:
            return f"lab {lab} says it is simulated, and others are real"
        if self._kind and about.kind != self._kind:
            return f"lab {lab} brings {about.kind} values, the others {self._kind}"
        return ""

    def _take_up(self, lab: str, about: About, back: bool) -> None:
        self._cannot.pop(f"lab {lab}", None)
        self.labs[lab] = about
        log(
            INFO,
            "lab %s%s: %d cells, %s%s",
            lab,
            " is back" if back else "",
            about.cells,
            about.kind,
            f"; quality control leaves out {about.left_out} more" if self.common else "",
            extra={"lab": lab, "cells": about.cells, "node": about.node},
        )

    @property
    def _absent(self) -> int:
        """Count labs that cannot take part; of a real node one, whatever names it gives."""
        if any(about.simulated for about in self.labs.values()):
            return len(self._cannot)
        return len(self._hopeless - {about.node for about in self.labs.values()})

    @property
    def _hopeless(self) -> set[int]:
        """Nodes of which nothing is to be expected."""
        return {node for node, _ in self._cannot.values()}

    @property
    def refusals(self) -> list[str]:
        """Why labs or nodes cannot take part, each reason once, sorted."""
        return sorted({reason for _, reason in self._cannot.values()})

    def _refuse_simulated_among_real(self) -> None:
        """Drop labs that say the server may read their cells where others are real."""
        simulated = [lab for lab, about in self.labs.items() if about.simulated]
        if len(simulated) < len(self.labs):
            for lab in simulated:
                del self.labs[lab]
                log(WARNING, "lab %s says it is simulated, and others are real: left out", lab)

    def _agree_on_kind(self) -> None:
        kinds = {about.kind for about in self.labs.values()}
        if len(kinds) > 1:
            sides = "; ".join(
                f"{kind}: {', '.join(n for n, a in self.labs.items() if a.kind == kind)}"
                for kind in sorted(kinds)
            )
            raise DataError(
                f"labs bring different kinds of values ({sides}); bring raw counts everywhere"
            )
        self._kind = kinds.pop()
