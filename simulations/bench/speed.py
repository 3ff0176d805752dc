"""``fedsc bench speed``: what FedSC takes beside straightforward PyTorch of one thread.

Machines differ and are busy, so what counts are ratios: the reference and FedSC take turns, and
every turn gives a ratio of its own. Whole rounds train labs in as many processes as a run would.
"""

import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Context, Message, RecordDict
from torch import Tensor, nn

from fedsc import training
from fedsc.config import Config
from fedsc.models.encoder import EMBEDDING, HIDDEN, PROJECTION
from fedsc.options import MethodOptions
from fedsc.rng import random_bits, torch_generator
from fedsc.sgd import SGD
from fedsc.ssl.byol import OBJECTIVE
from fedsc.ssl.views import masked_views
from fedsc.threads import one_thread
from protocol.records import TRAIN
from simulations.inprocess import InProcessGrid, silence_flower, worthwhile

GENES, BATCH = 500, 128  # the default options
_TURNS, _STEPS = 40, 4
_ROUNDS = 3
_STARTS = 2


@dataclass(frozen=True)
class Spread:
    """What several measurements gave."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up measurements."""
        return cls(*(round(float(f(values)), 4) for f in (median, min, max)))


class Plain:
    """BYOL as one writes it in PyTorch: modules, autograd, ``torch.optim``, a view at a time."""

    def __init__(self, genes: int, options: Config) -> None:
        widths = (genes, *HIDDEN, EMBEDDING)
        layers: list[nn.Module] = []
        for i in range(3):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if i < 2:
                layers += [nn.BatchNorm1d(widths[i + 1]), nn.ReLU()]
        self.online = nn.Sequential(*layers, nn.Linear(EMBEDDING, PROJECTION))
        self.target = copy.deepcopy(self.online)
        self.predictor = nn.Linear(PROJECTION, PROJECTION)
        self._options = options
        self.begin()

    def begin(self) -> None:
        """Begin a round: momentum does not outlive one."""
        chosen = self._options.training
        self._optimizer = torch.optim.SGD(
            [*self.online.parameters(), *self.predictor.parameters()],
            lr=chosen.learning_rate,
            momentum=chosen.momentum,
            weight_decay=chosen.weight_decay,
        )

    def step(self, x: Tensor) -> None:
        """Take one step on a batch."""
        rate, momentum = self._options.method.mask_rate, self._options.method.target_momentum
        view_1, view_2 = (x * (torch.rand_like(x) >= rate) / (1 - rate) for _ in range(2))
        p_1, p_2 = self.predictor(self.online(view_1)), self.predictor(self.online(view_2))
        with torch.no_grad():
            t_1, t_2 = self.target(view_1), self.target(view_2)
        loss = 4.0 - 2.0 * (
            F.cosine_similarity(p_1, t_2).mean() + F.cosine_similarity(p_2, t_1).mean()
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            for average, own in zip(
                self.target.parameters(), self.online.parameters(), strict=True
            ):
                average.mul_(momentum).add_(own, alpha=1 - momentum)


def step_ratios() -> list[float]:
    """Time steps of BYOL: plain PyTorch / FedSC, CPU, at the default shapes."""
    options = MethodOptions()
    x = torch.randn(BATCH, GENES, generator=torch_generator(0, "speed"))
    plain = Plain(GENES, Config.of())
    state = OBJECTIVE.begin(
        OBJECTIVE.init(GENES, options, torch_generator(0, "init")),
        {},
        BATCH,
        options,
        torch_generator(0, "begin"),
    )
    optimizer = SGD(state.trainable(), 0.032, 0.5, 5e-4)
    bits = random_bits(0, "masks")

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def ours() -> None:
        OBJECTIVE.step(state, masked_views(x, options.mask_rate, bits), descend, options)

    with one_thread():
        turns = [
            (_cpu(lambda: plain.step(x), _STEPS), _cpu(ours, _STEPS)) for _ in range(_TURNS + 5)
        ]
    return [theirs / own for theirs, own in turns[5:]]


def _cpu(work: Callable[[], object], times: int) -> float:
    start = time.thread_time()
    for _ in range(times):
        work()
    return time.thread_time() - start


class _Enough(Exception):
    """As many rounds are measured as are wanted."""


class _TimedGrid(InProcessGrid):
    """Measure rounds, from one to the next; before each, time a plain one."""

    def __init__(self, config: Config, reference: Callable[[], None], processes: int) -> None:
        from client_app import app

        labs = config.split.labs
        nodes: list[dict[str, str | int]] = [
            {"partition-id": i, "num-partitions": labs} for i in range(labs)
        ]
        super().__init__(app, nodes if processes > 1 else _ONE_NODE, config, processes=processes)
        self._reference = reference
        self.plain: list[float] = []
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        if messages and messages[0].metadata.message_type == TRAIN:
            if self.plain:
                self.wall[-1] = time.perf_counter() - self.wall[-1]
                self.cpu[-1] = time.process_time() - self.cpu[-1]
            if len(self.plain) > _ROUNDS:
                raise _Enough
            start = time.perf_counter()
            self._reference()
            self.plain.append(time.perf_counter() - start)
            self.wall.append(time.perf_counter())
            self.cpu.append(time.process_time())
        return super().send_and_receive(messages, timeout=timeout)


_ONE_NODE: list[dict[str, str | int]] = [{"partition-id": 0, "num-partitions": 1}]


def _rounds(config: Config, reference: Callable[[], None], processes: int) -> _TimedGrid:
    from server_app import app as server

    grid = _TimedGrid(config, reference, processes)
    context = Context(1, 1, {}, RecordDict(), config.to_mapping())
    try:
        server(grid, context)
    except _Enough:
        pass
    finally:
        grid.close()
    return grid


def _config(folder: str, labs: int, **options: Any) -> Config:
    return Config.of(
        output=folder, labs=labs, partition="iid", rounds=_ROUNDS + 2, draw_map=False,
        min_cells=1, **options,
    )  # fmt: skip


def round_ratios() -> list[float]:
    """Time rounds of four labs: a plain loop over the labs / FedSC, wall clock."""
    from partitioning.simulation import simulated_labs

    with tempfile.TemporaryDirectory() as folder:
        config = _config(folder, labs=4)
        labs = simulated_labs(config.data, config.split, config.run.seed).labs
        sizes = [len(cells.cells) for cells in labs.values()]
        cells = [
            torch.randn(n, GENES, generator=torch_generator(0, "cells", i))
            for i, n in enumerate(sizes)
        ]
        models = [Plain(GENES, config) for _ in cells]

        def plainly() -> None:
            with one_thread():
                for own, model in zip(cells, models, strict=True):
                    model.begin()
                    for _ in range(config.training.local_epochs):
                        order = torch.randperm(len(own))
                        for rows in torch.split(order, config.training.batch_size):
                            model.step(own[rows])
                _average(models, sizes)

        grid = _rounds(config, plainly, worthwhile(config))
    return [plain / own for plain, own in zip(grid.plain, grid.wall, strict=True)][1:]


def _average(models: list[Plain], sizes: list[int]) -> None:
    states = [model.online.state_dict() for model in models]
    shares = [n / sum(sizes) for n in sizes]
    mean = {
        name: sum(state[name].double() * share for state, share in zip(states, shares, strict=True))
        for name in states[0]
    }
    for model in models:
        model.online.load_state_dict(mean)


def overheads(labs: int) -> list[float]:
    """Measure what a round costs beside training, CPU milliseconds a lab, labs one by one."""
    spent: list[float] = []
    trained: list[float] = []

    def note() -> None:
        trained.append(sum(spent))
        spent.clear()

    with tempfile.TemporaryDirectory() as folder, _watched(spent):
        grid = _rounds(_config(folder, labs, local_epochs=1), note, processes=1)
        note()
    # The first round prepares the cells.
    return [
        1000 * (all_ - train) / labs for all_, train in zip(grid.cpu[1:], trained[2:], strict=True)
    ]


@contextmanager
def _watched(spent: list[float]) -> Iterator[None]:
    """Note how much CPU every call of ``train_lab`` takes."""
    original = training.train_lab

    def watched(*given: Any, **named: Any) -> training.Update:
        start = time.process_time()
        try:
            return original(*given, **named)
        finally:
            spent.append(time.process_time() - start)

    training.train_lab = watched
    try:
        yield
    finally:
        training.train_lab = original


def startups() -> tuple[list[float], list[float], list[float]]:
    """Measure CPU seconds to round 1 in one process, of ``--help``, and of ``import torch``."""
    with tempfile.TemporaryDirectory() as folder:
        to_round_1 = [sys.executable, "-c", _TO_ROUND_1, folder]
        help_ = [sys.executable, "-m", "fedsc.cli", "--help"]
        alone = [sys.executable, "-c", "import torch"]
        turns = [[_cpu_of(c) for c in (to_round_1, help_, alone)] for _ in range(_STARTS)]
    runs, helps, imports = zip(*turns, strict=True)
    return list(runs), list(helps), list(imports)


_TO_ROUND_1 = """
import os, sys
from fedsc.cli import main
from simulations.inprocess import InProcessGrid
before = InProcessGrid.send_and_receive
def until_round_1(self, messages, *, timeout=None):
    messages = list(messages)
    if messages and messages[0].metadata.message_type == "train":
        os._exit(0)
    return before(self, messages, timeout=timeout)
InProcessGrid.send_and_receive = until_round_1
sys.argv = ["fedsc", "run", "--engine", "inprocess", "--output", sys.argv[1]]
main()
os._exit(1)
"""


def _cpu_of(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def gflops() -> list[float]:
    """Measure 10⁹ floating-point operations a second of a float32 product, one thread."""
    a = torch.randn(512, 512)
    with one_thread():
        return [2 * 512**3 / _cpu(lambda: torch.mm(a, a), 1) / 1e9 for _ in range(20)]


def measure(deployed: bool = False, large: bool = False) -> dict[str, Any]:
    """Measure everything; quick on a quiet machine, several minutes on a busy one.

    Parameters
    ----------
    deployed
        Also rounds of two labs as real processes.
    large
        Also how the analysis grows with the cells: some minutes more.

    Returns
    -------
    dict
        What ``speed.json`` holds: ``{median, min, max}`` of every figure, and the machine.
    """
    silence_flower()
    start, help_, torch_alone = startups()
    found = {
        "step_ratio": step_ratios(),
        "round_ratio": round_ratios(),
        "overhead_ms_per_lab": overheads(4),
        "overhead_ms_per_lab_of_32": overheads(32),
        "startup_cpu_s": start,
        "help_cpu_s": help_,
        "import_torch_cpu_s": torch_alone,
    }
    if deployed:
        from simulations.bench.deployed import deployed_rounds

        found |= deployed_rounds()
    if large:
        from simulations.benchmarks.large_run import growth

        found |= growth()
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "gflops": asdict(Spread.of(gflops())),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return {name: asdict(Spread.of(values)) for name, values in found.items()} | {
        "machine": machine
    }


def as_json(found: dict[str, Any]) -> bytes:
    """Put what :func:`measure` gives into ``speed.json``."""
    return (json.dumps(found, indent=2) + "\n").encode()
