"""Sending messages and waiting for replies: deadlines, silent nodes, replies that come too late."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx
from flwr.app import Error, Message
from flwr.serverapp import Grid

from protocol.records import content_bytes
from server_app.traffic import Traffic

_NO_REPLY = 0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.25, 1.0  # seconds


class Clock(Protocol):
    """What tells the time and waits; the module :mod:`time` is one."""

    def monotonic(self) -> float:
        """Tell how many seconds have passed since some moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclass(frozen=True)
class _Debt:
    """A message that a node has not answered in time."""

    message: Message
    patience: float  # seconds for which the node is sent nothing
    until: float  # when they are over


class Post:
    """Deliver messages over a grid and collect one reply to each.

    Over a network it asks for replies more often than Flower's own ``send_and_receive`` does
    (every 3 s), and it remembers who did not answer in time: such a node works on one message
    after the other, so it is sent nothing until its late reply is there, or it is gone. Late
    replies are thrown away, but for those somebody asks for (:meth:`late`). A node that was
    restarted has lost the message and never answers it, and nothing tells such a node from one
    that hangs; so after as long a time as it was waited for it is sent the next message all the
    same, and after twice as long each time it does not answer again.

    Parameters
    ----------
    grid
        Flower's connection to the nodes.
    clock
        Tells the time and waits.

    Attributes
    ----------
    traffic
        What messages have carried so far.
    """

    def __init__(self, grid: Grid, clock: Clock = time) -> None:
        self.traffic = Traffic()
        self._grid = grid
        self._clock = clock
        self._debts: dict[int, _Debt] = {}  # by node
        self._late: list[Message] = []

    @property
    def remote(self) -> bool:
        """Whether nodes are behind a network, where they come, go and hang by themselves."""
        # Importing it takes a fifth of the start; where nobody has, this grid is none.
        grids = sys.modules.get("flwr.superlink.grid")
        return grids is not None and isinstance(self._grid, grids.HttpGrid)

    def busy(self, node: int) -> bool:
        """Say whether a node owes a reply, and is sent nothing until it comes."""
        return node in self._debts and self._clock.monotonic() < self._debts[node].until

    def late(self, message_type: str, group: str) -> list[Message]:
        """Give late replies to messages of a type and group, each once; forget all others."""
        found = [
            reply
            for reply in self._late
            if (reply.metadata.message_type, reply.metadata.group_id) == (message_type, group)
        ]
        self._late.clear()
        return found

    def present(self) -> set[int]:
        """List the nodes that are connected; one that left owes nothing any more."""
        nodes = set(self._grid.get_node_ids())
        self._debts = {node: debt for node, debt in self._debts.items() if node in nodes}
        self._collect()
        return nodes

    def deliver(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        """Send messages to different nodes and wait for the replies.

        Parameters
        ----------
        messages
            One per node.
        timeout
            Seconds to wait.

        Returns
        -------
        list of Message
            One per message, from the node it was sent to; an error where it did not reply.
        """
        sent = {message.metadata.dst_node_id: message for message in messages}
        if self.remote:
            replies = self._exchange(sent, timeout)
        else:
            received = list(self._grid.send_and_receive(list(sent.values()), timeout=timeout))
            self._count(sent.values(), received)
            replies = {reply.metadata.src_node_id: reply for reply in received}
        return [
            reply
            if (reply := replies.get(node)) is not None and _answers(reply, message)
            else _failed(message, f"did not answer within {timeout:.0f} s")
            for node, message in sent.items()
        ]

    def _exchange(self, sent: dict[int, Message], timeout: float) -> dict[int, Message]:
        started = self._clock.monotonic()
        self._collect()
        busy = {
            node: message
            for node, message in sent.items()
            if node in self._debts and started < self._debts[node].until
        }
        free = {node: message for node, message in sent.items() if node not in busy}
        patience = {
            node: 2 * self._debts.pop(node).patience if node in self._debts else timeout
            for node in free
        }
        pushed = set(self._grid.push_messages(list(free.values())))
        owed = {
            message.metadata.message_id: node
            for node, message in free.items()
            if message.metadata.message_id in pushed
        }
        self._count([sent[node] for node in owed.values()], [])
        replies = {
            node: _failed(message, "is still busy with an earlier message")
            for node, message in busy.items()
        } | {
            node: _failed(message, "could not be reached")
            for node, message in free.items()
            if node not in owed.values()
        }
        while owed:
            for message_id, node in list(owed.items()):
                if (reply := self._pull(message_id, sent[node])) is not None:
                    replies[node] = reply
                    del owed[message_id]
            waited = self._clock.monotonic() - started
            if not owed or waited >= timeout:
                break
            pause = min(_LONGEST_WAIT, _SHORTEST_WAIT + waited / 20)
            self._clock.sleep(min(pause, timeout - waited))
            self._collect()  # a node that is gone for a moment only is seen now or never
        for node in owed.values():
            until = self._clock.monotonic() + patience[node]
            self._debts[node] = _Debt(sent[node], patience[node], until)
        return replies

    def _collect(self) -> None:
        """Forget the debts of nodes whose late reply is there, or that are gone."""
        for node, debt in list(self._debts.items()):
            if (reply := self._pull(debt.message.metadata.message_id, debt.message)) is not None:
                del self._debts[node]
                if reply.has_content() and _answers(reply, debt.message):
                    self._late.append(reply)

    def _pull(self, message_id: str, message: Message) -> Message | None:
        """Ask for one reply: one that cannot be decoded must not take others with it."""
        try:
            for reply in self._grid.pull_messages([message_id]):
                self._count([], [reply])
                # What the SuperLink says of a node does not come from the node.
                return _failed(message, reply.error.reason) if reply.has_error() else reply
        except httpx.HTTPError:  # the SuperLink itself
            raise
        except Exception as error:  # whatever Flower says of bytes that are no message
            return _failed(message, f"sent what is no reply ({type(error).__name__})")
        return None

    def _count(self, sent: Iterable[Message], received: Iterable[Message]) -> None:
        self.traffic.to_labs += sum(content_bytes(m.content) for m in sent)
        self.traffic.from_labs += sum(content_bytes(m.content) for m in received if m.has_content())


def _answers(reply: Message, message: Message) -> bool:
    """Say whether a reply is to this message, not to one of an earlier round."""
    return (reply.metadata.group_id, reply.metadata.message_type) == (
        message.metadata.group_id,
        message.metadata.message_type,
    )


def _failed(message: Message, reason: str | None) -> Message:
    return Message(Error(_NO_REPLY, reason or "failed without a reason"), reply_to=message)
