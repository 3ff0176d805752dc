"""Run the very same ServerApp and ClientApp in one process, without Ray: ``--engine inprocess``.

A small :class:`Grid` hands every message straight to the ClientApp. It saves Flower's polling and
start-up (about 0.15 s a round and 10 s a run) and gives the same bits.
"""

import copy
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import CRITICAL

from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import update_console_handler
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsc.config import Config

_CLIENT_ERROR = 1
_SERVER = 1
_NUMBER = 8  # bytes


@dataclass
class Traffic:
    """What the messages of a run carried: bytes of their arrays, texts and numbers."""

    to_labs: int = 0
    from_labs: int = 0


class InProcessGrid(Grid):
    """Nodes that live in this process.

    Parameters
    ----------
    app
        The ClientApp every node runs.
    node_configs
        One per node, as ``--node-config`` would give it.
    config
        Options of the run.
    order
        Puts messages in the order in which nodes are to answer; tests shuffle it.
    """

    def __init__(
        self,
        app: ClientApp,
        node_configs: list[dict[str, str | int]],
        config: Config,
        order: Callable[[list[Message]], list[Message]] = list,
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SERVER
        self._app = app
        self._order = order
        self.traffic = Traffic()
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config=node_config,
                state=RecordDict(),
                run_config=config.to_mapping(),
            )
            for node, node_config in enumerate(node_configs, start=100)
        }

    def get_node_ids(self) -> list[int]:
        """List the nodes."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Give each message to its node's ClientApp; an exception becomes an error reply."""
        return [self._deliver(message) for message in self._order(list(messages))]

    def _deliver(self, message: Message) -> Message:
        # A copy, as a network would make: neither side can change what the other holds.
        received = copy.deepcopy(message)
        context = self._contexts[message.metadata.dst_node_id]
        self.traffic.to_labs += content_bytes(message)
        try:
            reply = copy.deepcopy(self._app(received, context))
        except Exception:
            return Message(Error(_CLIENT_ERROR, traceback.format_exc()), reply_to=received)
        self.traffic.from_labs += content_bytes(reply)
        return reply

    # The rest of the interface is for transports with messages under way.

    def set_run(self, run: Run) -> None:
        """Refuse: there is one run per grid."""
        raise TypeError("an in-process grid has one run")

    @property
    def run(self) -> Run:
        """Refuse: there is no run record without a SuperLink."""
        raise TypeError("an in-process grid has no run record")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(
            content,
            dst_node_id=dst_node_id,
            message_type=message_type,
            group_id=group_id,
            ttl=ttl,
        )

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Refuse: messages are answered at once."""
        raise TypeError("an in-process grid answers at once; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Refuse: messages are answered at once."""
        raise TypeError("an in-process grid answers at once; use send_and_receive")


def content_bytes(message: Message) -> int:
    """Count the bytes of a message's content, without what a transport adds around it.

    To serialise every message only to learn its size took longer than to train on it.
    """
    return sum(
        len(value.data) if isinstance(value, Array) else _length(value)
        for record in message.content.values()
        for value in record.values()
    )


def _length(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_length, value))
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else _NUMBER


def silence_flower() -> None:
    """Keep what Flower logs off this process's screen: whoever runs it shows ``run.log`` there."""
    update_console_handler(level=CRITICAL)


def run_inprocess(config: Config, nodes: int = 1) -> Traffic:
    """Run a whole simulation in this process.

    Parameters
    ----------
    config
        Options of the run.
    nodes
        How many nodes share the labs; the result does not depend on it.

    Returns
    -------
    Traffic
        What went to the labs and what came back.

    Raises
    ------
    FedscError
        As the ServerApp does.
    """
    from client_app import app as client
    from server_app import app as server

    node_configs = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
    grid = InProcessGrid(client, node_configs, config)
    context = Context(
        run_id=1,
        node_id=_SERVER,
        node_config={},
        state=RecordDict(),
        run_config=config.to_mapping(),
    )
    server(grid, context)
    return grid.traffic
