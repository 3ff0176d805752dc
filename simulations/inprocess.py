"""Run the very same ServerApp and ClientApp in one process, without Ray: ``fedsc run``.

A small :class:`Grid` hands every message straight to the ClientApp. It saves Flower's polling and
start-up (about 0.15 s a round and 10 s a run) and gives the same bits. Labs can train at the same
time, in forks of this process (:mod:`simulations.pool`); all else is done in this one.
"""

import copy
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from logging import CRITICAL

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import update_console_handler
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsc.config import Config
from protocol.records import TRAIN, content_bytes
from server_app.traffic import Traffic
from simulations.pool import Failed, Pool, can_fork

_CLIENT_ERROR = 1
_SERVER = 1


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
    processes
        In how many processes nodes train; 1 = in this one.
    """

    def __init__(
        self,
        app: ClientApp,
        node_configs: Sequence[Mapping[str, bool | float | int | str]],
        config: Config,
        order: Callable[[list[Message]], list[Message]] = list,
        processes: int = 1,
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SERVER
        self._app = app
        self._order = order
        self._wanted = processes
        self._pool: Pool[Message, Message] | None = None
        self._cells: dict[int, int] = {}  # of a node, once they are prepared
        self.traffic = Traffic()
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config=dict(node_config),
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
        ordered = self._order(list(messages))
        parallel = self._wanted > 1 and ordered and ordered[0].metadata.message_type == TRAIN
        replies = self._train_together(ordered) if parallel else map(self._here, ordered)
        return [
            self._booked(message, reply) for message, reply in zip(ordered, replies, strict=True)
        ]

    def close(self) -> None:
        """End the processes in which nodes train."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _here(self, message: Message) -> Message | Failed:
        # A copy, as a network would make: neither side can change what the other holds. Weights are
        # not copied, since nobody changes them.
        try:
            return copy.deepcopy(self._answer(copy.deepcopy(message)))
        except Exception:
            return Failed(traceback.format_exc())

    def _train_together(self, messages: list[Message]) -> list[Message | Failed]:
        """Train nodes in processes of their own, those with the most cells first.

        The cells of all nodes are prepared before the processes are made, so all share them in
        memory, also where a round draws some of the labs only.
        """
        nodes = [message.metadata.dst_node_id for message in messages]
        if self._pool is None:
            self._cells = {node: self._prepare(node, messages[0]) for node in self._contexts}
            self._pool = Pool(self._answer, min(self._wanted, len(messages)))
        order = sorted(range(len(messages)), key=lambda i: -self._cells[nodes[i]])
        replies = self._pool.map([messages[i] for i in order])
        return [reply for _, reply in sorted(zip(order, replies, strict=True), key=lambda r: r[0])]

    def _prepare(self, node: int, message: Message) -> int:
        """Prepare the cells of a node's labs and count them; a lab that cannot says so itself.

        How cells are prepared, every message to train on says alike.
        """
        from client_app.labs import hosted_labs
        from protocol.quality import unpack_filter
        from protocol.records import unpack_preprocessing

        context, total = self._contexts[node], 0
        config = Config.from_mapping(context.run_config)
        preprocessing = unpack_preprocessing(message.content)
        cell_filter = unpack_filter(message.content)
        for lab in hosted_labs(context.node_config, config):
            with suppress(Exception):  # the lab tells it when it is asked to train
                cells = lab.filtered(cell_filter).cells(preprocessing, config.data.scale)
                # What a first batch computes is shared too.
                cells.batch(np.arange(min(1, cells.n_cells)))
                total += cells.n_cells
        return total

    def _answer(self, message: Message) -> Message:
        return self._app(message, self._contexts[message.metadata.dst_node_id])

    def _booked(self, message: Message, reply: Message | Failed) -> Message:
        self.traffic.to_labs += content_bytes(message.content)
        if isinstance(reply, Failed):
            return Message(Error(_CLIENT_ERROR, reply.traceback), reply_to=message)
        self.traffic.from_labs += content_bytes(reply.content)
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


def silence_flower() -> None:
    """Keep what Flower logs off this process's screen: whoever runs it shows ``run.log`` there."""
    update_console_handler(level=CRITICAL)


def forget() -> None:
    """Let go of the cells of simulated labs: as they were read, prepared and put on a device."""
    from client_app.labs import forget_simulated
    from client_app.stacked import forget_stack

    forget_simulated()
    forget_stack()


def run_inprocess(config: Config, nodes: int = 1, processes: int = 1) -> Traffic:
    """Run a whole simulation in this process.

    Parameters
    ----------
    config
        Options of the run.
    nodes
        How many nodes share the labs; the result does not depend on it.
    processes
        In how many processes labs train at the same time, a node for each lab then; 1 = one after
        the other in this process, 0 = :func:`worthwhile`. The result does not depend on it.

    Returns
    -------
    Traffic
        What went to the labs and what came back.

    Raises
    ------
    RunError
        If a process in which labs train is ended from outside.
    FedscError
        As the ServerApp does.
    """
    from client_app import app as client
    from server_app import app as server

    processes = processes or worthwhile(config)
    if processes > 1:
        nodes = len(_labs(config))
    node_configs = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
    grid = InProcessGrid(client, node_configs, config, processes=processes)
    context = Context(
        run_id=1,
        node_id=_SERVER,
        node_config={},
        state=RecordDict(),
        run_config=config.to_mapping(),
    )
    try:
        server(grid, context)
    finally:
        grid.close()
    return grid.traffic


def worthwhile(config: Config) -> int:
    """Give the number of processes in which to train the labs of a simulation.

    One for every core, no more than labs. One alone where labs would share a GPU, where processes
    cannot be forked, or where a lab of the usual size passes fewer than a thousand cells through
    the network in a round: to send the weights there and back takes as long.
    """
    import torch

    labs = _labs(config)
    cells = sum(labs.values()) * config.training.local_epochs
    if not can_fork() or torch.cuda.is_available() or cells < _FEW * len(labs):
        return 1
    return min(len(os.sched_getaffinity(0)), len(labs))


_FEW = 1000


def _labs(config: Config) -> dict[str, int]:
    """Count the cells of the labs, by name."""
    from partitioning.simulation import simulated_labs

    labs = simulated_labs(config.data, config.split, config.run.seed).labs
    return {lab: len(cells.cells) for lab, cells in labs.items()}
