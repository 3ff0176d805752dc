"""What labs trained stacked give on a GPU.

``python -m simulations.benchmarks.gpu_check -o gpu_check.json`` measures
correctness against the CPU, kernels and waits a step, memory, and the seconds of whole rounds:
stacked with CUDA graphs, stacked without, and one lab after the other (docs/performance.md).
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix, transform
from fedsc.federated.averaging import Arrays, average
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.methods import load_objective, method_of
from fedsc.options import TrainingOptions
from fedsc.rng import random_bits, torch_generator
from fedsc.ssl.views import masked_views
from fedsc.stacked import Stack, Views
from fedsc.training import Update, batch_sizes, train_lab
from partitioning.simulation import simulated_labs

METHODS = ("fedsc", "fedsimsiam", "fedsimclr", "fedmoco-v1", "fedmoco-v2")
"""One for each objective; ``fedbyol`` trains labs as ``fedsc`` does."""

_STEPS, _EPOCHS = 10, 2  # of the comparison with the CPU
_CLOSE = 1e-4  # rounding of ten steps of two devices

Cells = Mapping[str, CellMatrix]
Round = Callable[[Arrays, Mapping[str, Arrays], int], dict[str, Update]]


def labs_of(config: Config) -> dict[str, CellMatrix]:
    """Prepare the cells of every lab of a simulation."""
    labs = dict(sorted(simulated_labs(config.data, config.split, config.run.seed).labs.items()))
    preprocessing = fit_preprocessing(list(labs.values()), config.data)
    return {lab: transform(own, preprocessing) for lab, own in labs.items()}


def masks_of_labs(labs: list[str], cells: Cells, training: TrainingOptions, round_: int) -> Views:
    """Draw the masks that each lab draws when it trains alone with seed 0.

    Parameters
    ----------
    labs
        In the order in which they are stacked.
    cells, training
        Of the labs.
    round_
        The one round for which the views are.
    """
    bits = {lab: random_bits(0, "masks", lab, round_) for lab in labs}
    sizes = {lab: batch_sizes(cells[lab].n_cells, training.batch_size) for lab in labs}
    steps = itertools.cycle(range(max(map(len, sizes.values()))))

    def views(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        step = next(steps)
        views = x.new_zeros((*x.shape[:-1], 2, x.shape[-1]))
        for i, lab in enumerate(labs[: len(x)]):
            size = sizes[lab][step]
            views[i, :size] = masked_views(x[i, :size], rate, bits[lab])
        return views

    return views


def first_weights(config: Config, cells: Cells) -> Arrays:
    """Draw the weights of round 0."""
    n_genes = next(iter(cells.values())).n_genes
    objective = load_objective(method_of(config.method))
    drawn = objective.init(n_genes, config.method, torch_generator(0, "init"))
    return {name: tensor.numpy() for name, tensor in drawn.items()}


def nothing_kept(cells: Cells) -> dict[str, Arrays]:
    """Give the private states before the first round."""
    return {lab: {} for lab in cells}


def stack_of(config: Config, cells: Cells, device: str, **options: Any) -> Stack:
    """Stack the labs of a config."""
    objective = load_objective(method_of(config.method))
    return Stack(objective, cells, config.method, config.training, device=device, **options)


def stacked_round(stack: Stack) -> Round:
    """Give what trains a round of a stack: from global weights and private states, by number."""

    def train(weights: Arrays, private: Mapping[str, Arrays], round_: int) -> dict[str, Update]:
        starts = dict.fromkeys(stack.labs, weights)
        return stack.train(starts, private, seed=0, round_=round_)

    return train


def round_alone(config: Config, cells: Cells, device: str) -> Round:
    """Give what trains a round of one lab after the other."""
    objective = load_objective(method_of(config.method))

    def train(weights: Arrays, private: Mapping[str, Arrays], round_: int) -> dict[str, Update]:
        return {
            lab: train_lab(
                objective, weights, private[lab], own, config.method, config.training,
                seed=0, lab=lab, round_=round_, device=device,
            )
            for lab, own in cells.items()
        }  # fmt: skip

    return train


def farthest(one: Mapping[str, Update], other: Mapping[str, Update]) -> float:
    """Give the largest |a − b| / (1 + |b|) of two sets of updates, over all values."""
    found = [0.0]
    for lab, update in one.items():
        parts = (update.shared, other[lab].shared), (update.private, other[lab].private)
        for mine, theirs in parts:
            for name in mine.keys() | theirs.keys():
                a, b = mine[name].astype(np.float64), theirs[name].astype(np.float64)
                found.append(float((np.abs(a - b) / (1 + np.abs(b))).max(initial=0)))
        found.append(abs(update.loss - other[lab].loss))
    return float(np.max(found))  # NaN, where there is one


def against_cpu(config: Config, cells: Cells, device: str) -> float:
    """Hold labs stacked on a device against each alone on the CPU, after ten steps, same masks."""
    config = config.replace(local_epochs=_EPOCHS)
    most = config.training.batch_size * _STEPS // _EPOCHS
    few = {lab: replace(own, values=own.values[:most]) for lab, own in cells.items()}
    weights, nothing = first_weights(config, few), nothing_kept(few)
    order = stack_of(config, few, "cpu").labs
    views = masks_of_labs(order, few, config.training, 1)
    stack = stack_of(config, few, device, views=views)
    alone = round_alone(config, few, "cpu")(weights, nothing, 1)
    return farthest(stacked_round(stack)(weights, nothing, 1), alone)


def graph_against_eager(config: Config, cells: Cells, device: str) -> float:
    """Hold a round of CUDA graphs against the same round step by step, same masks."""
    weights, nothing = first_weights(config, cells), nothing_kept(cells)
    config = config.replace(local_epochs=1)
    recorded, eager = (
        stacked_round(stack_of(config, cells, device, graphs=graphs))(weights, nothing, 1)
        for graphs in (True, False)
    )
    return farthest(recorded, eager)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count what is done with tensors: operations that compute, and those the host waits for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments = [a.alias_info for a in func._schema.arguments]
        is_view = any(info is not None and not info.is_write for info in arguments)
        self.operations += not is_view
        self.waits += _waits(func.overloadpacket.__name__, args, kwargs)
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Any) -> bool:
    """Tell what a GPU's host waits for: a value, as many as there are, a copy to the CPU."""
    if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
        return True
    if name.startswith("index"):  # by a mask: how many values it has is asked first
        places = args[1] if isinstance(args[1], list | tuple) else []
        return any(p is not None and p.dtype == torch.bool for p in places)
    if name == "_to_copy":
        return args[0].device.type != "cpu" and str(kwargs.get("device", "")) == "cpu"
    return bool(name == "copy_" and args[0].device.type == "cpu" != args[1].device.type)


def per_step(
    config: Config, cells: Cells, device: str, count: Callable[[Callable[[], Any]], np.ndarray]
) -> list[float]:
    """Count per step of an epoch: a round of two epochs less one of one, eager."""
    weights, nothing = first_weights(config, cells), nothing_kept(cells)
    found = []
    for epochs in (1, 2):
        own = config.replace(local_epochs=epochs)
        train = stacked_round(stack_of(own, cells, device))
        train(weights, nothing, 1)  # what a first round does only once is not counted
        found.append(count(partial(train, weights, nothing, 1)))
    size = config.training.batch_size
    steps = max(len(batch_sizes(own.n_cells, size)) for own in cells.values())
    return [float(n) / steps for n in found[1] - found[0]]


def operations_and_waits(work: Callable[[], Any]) -> np.ndarray:
    """Count torch's operations, and those the host waits for."""
    with Watch() as watch:
        work()
    return np.array([watch.operations, watch.waits])


def kernels_and_waits(work: Callable[[], Any]) -> np.ndarray:
    """Count the kernels a GPU runs, and the calls that CUDA makes the host wait for."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    on_gpu = [e for e in profiled.events() if e.device_type.name == "CUDA"]
    return np.array([len(on_gpu), sum("synchroniz" in str(t.message) for t in told)])


def rounds(config: Config, cells: Cells, train: Round, n: int, device: str) -> dict[str, float]:
    """Time rounds of training and averaging, after one more that is start-up.

    Returns
    -------
    dict
        ``start_up_s``, ``seconds`` of ``n`` rounds, ``loss`` of the last.
    """
    weights, private = first_weights(config, cells), nothing_kept(cells)
    times = [time.perf_counter()]
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for round_ in range(1, n + 2):
        updates = train(weights, private, round_)
        private = {lab: updates[lab].private for lab in cells}
        shared = [updates[lab].shared for lab in cells]
        weights = average(shared, [own.n_cells for own in cells.values()])
        times.append(time.perf_counter())
    found = {
        "start_up_s": times[1] - times[0],
        "seconds": times[-1] - times[1],
        "loss": float(np.mean([update.loss for update in updates.values()])),
    }
    if device != "cpu":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def check(config: Config, n_rounds: int, device: str) -> dict[str, Any]:
    """Check and measure everything.

    Parameters
    ----------
    config
        Options of the simulation.
    n_rounds
        Rounds to time.
    device
        Torch device; on ``"cpu"`` there are no graphs, no kernels and no memory of a device.

    Returns
    -------
    dict
        What the JSON file holds.
    """
    gpu, cells = device != "cpu", labs_of(config)
    one_lab = dict([max(cells.items(), key=lambda lab: lab[1].n_cells)])
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if gpu else device,
        "torch": torch.__version__,
        "labs": {lab: own.n_cells for lab, own in cells.items()},
        "rounds": n_rounds,
        "against_cpu": {},
        "graph_against_eager": {},
        "operations_per_step": {},
    }
    for method in METHODS:
        own = config.replace(method=method)
        found["against_cpu"][method] = against_cpu(own, cells, device)
        if gpu:
            found["graph_against_eager"][method] = graph_against_eager(own, cells, device)
        counted = [per_step(own, c, device, operations_and_waits) for c in (one_lab, cells)]
        found["operations_per_step"][method] = {
            "one_lab": counted[0][0], "all_labs": counted[1][0], "waits": counted[1][1],
        }  # fmt: skip
    if gpu:
        kernels, waits = per_step(config, cells, device, kernels_and_waits)
        found["kernels_per_step"], found["waits_per_step"] = kernels, waits
    ways: dict[str, Round] = {}
    if gpu:
        stack = stack_of(config, cells, device, graphs=True)
        ways["stacked, CUDA graphs"] = stacked_round(stack)
    ways["stacked"] = stacked_round(stack_of(config, cells, device))
    ways["one lab after the other"] = round_alone(config, cells, device)
    found["ways"] = {
        way: rounds(config, cells, train, n_rounds, device) for way, train in ways.items()
    }
    if gpu:
        found["graphs_captured"] = stack.graphs
    found["correct"] = all(
        value <= _CLOSE
        for which in ("against_cpu", "graph_against_eager")
        for value in found[which].values()
    )
    return found


def table(found: Mapping[str, Any]) -> str:
    """Write the figures as lines for a screen."""
    lines = [f"{found['device']}, torch {found['torch']}, {len(found['labs'])} labs"]
    for which in ("against_cpu", "graph_against_eager"):
        for method, value in found[which].items():
            lines.append(f"{which:22} {method:12} {value:.1e} (at most {_CLOSE:.0e})")
    for method, counted in found["operations_per_step"].items():
        told = ", ".join(f"{name} {value:.1f}" for name, value in counted.items())
        lines.append(f"{'operations_per_step':22} {method:12} {told}")
    for name in ("kernels_per_step", "waits_per_step", "graphs_captured"):
        if name in found:
            lines.append(f"{name:22} {found[name]}")
    for way, took in found["ways"].items():
        told = ", ".join(f"{name} {value:.2f}" for name, value in took.items())
        lines.append(f"{way:24} {found['rounds']} rounds: {told}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Check, print and write; exit code 2 without a GPU, 1 where results differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--labs", type=int, default=8)
    parser.add_argument("--options", type=json.loads, default={}, help="JSON; others of a run")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu_check.json"))
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(  # noqa: T201
            "torch finds no GPU here; --device cpu --rounds 2 rehearses the check on the CPU",
            file=sys.stderr,
        )
        return 2
    config = Config.of(**{"labs": given.labs, "partition": "iid", **given.options})
    found = check(config, given.rounds, given.device)
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))  # noqa: T201
    return 0 if found["correct"] else 1


if __name__ == "__main__":
    sys.exit(main())
