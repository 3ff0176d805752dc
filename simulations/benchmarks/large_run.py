"""Time and memory of a whole run on labs of growing size, from 10⁴ cells to 10⁶.

``python -m simulations.benchmarks.large_run --cells 10000 100000 --folder big -o large.json`` makes
synthetic labs of each size as ``.h5ad`` files, runs FedSC on them in a process of its own and
weighs that process. ``--plot large.json figure.svg`` draws what was found. Genes are drawn from
a table for each type and lab, so that a million cells are made in minutes.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.rng import numpy_generator
from fedsc.run_files import SCORES

LABS, TYPES = 8, 20
_GENES, _PER_CELL = 20_000, 1200  # genes; of them above zero in a cell, about
_MARKERS, _FOLD = 50, 10.0  # genes of a type, and how many times more they are expressed in it
_TABLE = 2**16
_ROWS = 2000  # cells drawn at a time
_SECONDS = 0.25  # between two looks at the memory

PHASES = {
    "server_app.federation:Federation.gather": "reading",
    "server_app.main:prepare": "statistics",
    "server_app.floor:_learn_pca": "principal components",
    "server_app.main:_train": "training",
    "server_app.main:score_floor": "floor",
    "server_app.analysis:embed": "embedding",
    "server_app.analysis:integrate": "Harmony",
    "server_app.analysis:find_clusters": "graph",
    "server_app.analysis:together": "markers",
    "server_app.analysis:learn_markers": "markers",
    "server_app.analysis:learn_map": "map",
}
"""What is timed under which name; a phase within another counts for both."""


def write_labs(folder: Path, cells: int, genes: int, per_cell: int, labs: int, seed: int) -> None:
    """Write a file for each lab, gzip-compressed CSR, a block of cells at a time.

    Types are of unlike sizes, every lab measures every gene with a factor of its own.

    Parameters
    ----------
    folder
        Of the files; exists.
    cells
        Of all labs together.
    genes, per_cell, labs
        Genes, those above zero in a cell (about), files.
    seed
        Moves the draws.
    """
    rng = numpy_generator(seed, "large-run", "genes")
    common = rng.gamma(0.6, size=genes) + 1e-2
    rates = np.repeat(common[None], TYPES, axis=0)
    marked = rng.permutation(genes)[: TYPES * min(_MARKERS, genes // TYPES)].reshape(TYPES, -1)
    np.put_along_axis(rates, marked, np.take_along_axis(rates, marked, 1) * _FOLD, 1)
    shares = 0.75 ** np.arange(TYPES)
    sizes = np.diff(np.linspace(0, cells, labs + 1).astype(int))
    for lab, n in enumerate(sizes):
        own = numpy_generator(seed, "large-run", "lab", lab)
        factors = np.exp(own.normal(0, 0.3, size=genes))
        tables = [_table(row * factors) for row in rates]
        draws = _draws_for(rates[0] * factors, per_cell)
        kinds = own.choice(TYPES, int(n), p=shares / shares.sum())
        blocks = (
            _draw(kinds[i : i + _ROWS], tables, draws, genes, own) for i in range(0, n, _ROWS)
        )
        _write(folder / f"lab-{lab:03d}.h5ad", kinds, genes, blocks)


def _table(rates: np.ndarray) -> np.ndarray:
    """Give genes so often that to draw a place of the table is to draw a gene by its rate."""
    cumulative = np.cumsum(rates) / rates.sum()
    places = (np.arange(_TABLE) + 0.5) / _TABLE
    return np.minimum(np.searchsorted(cumulative, places), len(rates) - 1).astype(np.int32)


def _draws_for(rates: np.ndarray, wanted: int) -> int:
    """Find how many draws hit so many different genes."""
    p, low, high = rates / rates.sum(), wanted, 100 * wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (-np.expm1(-middle * p)).sum() > wanted else (middle, high)
    return high


def _draw(
    kinds: np.ndarray, tables: list[np.ndarray], draws: int, genes: int, rng: np.random.Generator
) -> csr_matrix:
    places = rng.integers(0, _TABLE, size=(len(kinds), draws), dtype=np.uint16)
    found = np.stack([tables[kind][row] for kind, row in zip(kinds, places, strict=True)])
    ends = np.arange(len(kinds) + 1, dtype=np.int32) * draws
    ones = np.ones(found.size, dtype=np.float32)
    block = csr_matrix((ones, found.ravel(), ends), shape=(len(kinds), genes))
    block.sum_duplicates()
    return block


def _write(path: Path, kinds: np.ndarray, genes: int, blocks: Iterator[csr_matrix]) -> None:
    import anndata
    import h5py
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem

    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(kinds, [f"type-{i:02d}" for i in range(TYPES)])},
        index=[f"{path.stem}-{i}" for i in range(len(kinds))],
    )
    # In no alphabetical order, as in most files: the labs' vocabulary is in that order.
    order = numpy_generator(0, "large-run", "names").permutation(genes)
    var = pd.DataFrame(index=[f"GENE{i:05d}A" for i in order])
    anndata.AnnData(obs=obs, var=var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.pop("X", None)
        for i, block in enumerate(blocks):
            if i:
                sparse_dataset(file["X"]).append(block)
                continue
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            write_elem(file, "X", block, dataset_kwargs={"indptr_dtype": np.int64, **options})


def measure(folder: Path, scratch: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run FedSC on a folder of labs in this process: CPU seconds by phase, and memory.

    Returns
    -------
    dict
        ``phases`` (CPU seconds), ``cpu_s`` (all but the first imports), ``wall_s``,
        ``analysis_cpu_s_per_million`` (all but training), ``peak_gb`` (what the process holds),
        ``peak_own_gb`` (without pages of files, which the system takes back
        when it needs them), ``memory`` (seconds, GB, own GB), ``scores``.
    """
    from fedsc.config import Config
    from simulations.inprocess import run_inprocess, silence_flower

    silence_flower()
    config = Config.of(dataset=str(folder), output=str(scratch), run_name="run", **options)
    phases: dict[str, float] = {}
    curve: list[tuple[float, float, float]] = []
    with _timed(phases), _weighed(curve):
        start, cpu = time.perf_counter(), time.process_time()
        run_inprocess(config, processes=1)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    scores = json.loads((scratch / "run" / SCORES).read_text())
    cells = sum(lab["cells"] for lab in scores["labs"].values())
    analysis = cpu - phases.get("training", 0.0)
    graph = {name: scores["graph"][name] for name in ("clusters", "sizes", "stability")}
    return {
        "cells": cells,
        "labs": len(scores["labs"]),
        "options": options,
        "phases": {name: round(seconds, 1) for name, seconds in phases.items()},
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "analysis_cpu_s_per_million": round(analysis / cells * 1e6, 1),
        "peak_gb": max(gb for _, gb, _ in curve),
        "peak_own_gb": max(own for _, _, own in curve),
        "memory": curve,
        "graph": {**graph, "ari": _agreement(folder, scratch / "run")},
        "questions": scores["questions"],
    }


@contextmanager
def _timed(phases: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of this process in each of :data:`PHASES`."""
    before = []
    for place, phase in PHASES.items():
        module, _, path = place.partition(":")
        *holders, name = path.split(".")
        holder = importlib.import_module(module)
        for attribute in holders:
            holder = getattr(holder, attribute)
        before.append((holder, name, getattr(holder, name)))
        setattr(holder, name, _timing(getattr(holder, name), phase, phases))
    try:
        yield
    finally:
        for holder, name, original in before:
            setattr(holder, name, original)


def _timing(work: Callable[..., Any], phase: str, phases: dict[str, float]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return work(*given, **named)
        finally:
            phases[phase] = phases.get(phase, 0.0) + time.process_time() - start

    return timed


@contextmanager
def _weighed(curve: list[tuple[float, float, float]]) -> Iterator[None]:
    """Note now and then what this process, the only one, holds in memory."""
    start, done = time.perf_counter(), threading.Event()

    def look() -> None:
        while True:
            told = Path("/proc/self/status").read_text(encoding="utf-8").split("\n")
            sizes = {line.split(":")[0]: line.split()[1] for line in told if line.startswith("Rss")}
            own, files, shared = (int(sizes[f"Rss{kind}"]) for kind in ("Anon", "File", "Shmem"))
            gb = [round(size / 2**20, 3) for size in (own + files + shared, own + shared)]
            curve.append((round(time.perf_counter() - start, 2), gb[0], gb[1]))
            if done.wait(_SECONDS):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _agreement(folder: Path, run: Path) -> float:
    """Hold the cells' clusters against the types they were drawn from: ARI."""
    from anndata.io import read_elem
    from sklearn.metrics import adjusted_rand_score

    from client_app.subjects import embedding_of
    from fedsc.clusters import load_clusters
    from fedsc.data.reading.safe_hdf5 import open_hdf5
    from fedsc.federated.harmony import load_harmony
    from fedsc.model import load_model

    model = load_model(run)
    harmony, clusters = load_harmony(run, model), load_clusters(run, model)
    assert clusters is not None
    types, found = [], []
    for file in sorted(folder.glob("*.h5ad")):
        x = embedding_of(run / "labs" / file.stem, harmony.name if harmony else "")
        with open_hdf5(file) as content:
            types.append(read_elem(content["obs"])["cell_type"].cat.codes.to_numpy())
        found.append(clusters.assign(x))
    return round(float(adjusted_rand_score(np.concatenate(types), np.concatenate(found))), 4)


def slope(cells: list[int], seconds: list[float]) -> float:
    """Give the slope of seconds over cells, both as logarithms: 1 is linear."""
    return float(np.polyfit(np.log(cells), np.log(seconds), 1)[0])


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw CPU seconds by phase over cells, and memory over time of the largest run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs = sorted(found, key=lambda run: run["cells"])
    cells = [run["cells"] for run in runs]
    left.loglog(cells, [run["cpu_s"] for run in runs], "k-o", label="all")
    for phase in dict.fromkeys(phase for run in runs for phase in run["phases"]):
        left.loglog(cells, [run["phases"].get(phase, np.nan) for run in runs], "-o", label=phase)
    left.set(xlabel="cells", ylabel="CPU seconds")
    left.legend(fontsize="small")
    seconds, whole, own = zip(*runs[-1]["memory"], strict=True)
    right.plot(seconds, whole, label="all that the process holds")
    right.plot(seconds, own, label="without pages of files")
    right.set(xlabel=f"seconds ({cells[-1]:,} cells)", ylabel="GB", ylim=0)
    right.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _child(folder: Path, options: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Measure in a fresh process, whose cache of large files lies in a folder of its own."""
    command = [sys.executable, "-m", "simulations.benchmarks.large_run", "--measure", str(folder)]
    command += ["--options", json.dumps(options), "--folder", str(scratch)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(scratch / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def growth(
    sizes: tuple[int, int] = (10_000, 40_000),
    repeats: int = 3,
    genes: int = _GENES,
    per_cell: int = _PER_CELL,
    options: dict[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Measure how the analysis grows with the cells, from one size to another, scaled to 10⁶ cells.

    What does not grow (imports of the run, genes × genes) is in both and so does not count. Each
    run is a process of its own; the two sizes take turns.

    Parameters
    ----------
    sizes
        Cells of all labs together, the smaller first. As they are, labs hold both in memory; what
        is larger lies on disk (``docs/performance.md``).
    repeats
        Runs of each size.
    genes, per_cell
        As :func:`write_labs` takes them.
    options
        Beside and in place of :data:`_ANALYSIS`.

    Returns
    -------
    dict
        A figure for every repeat: ``analysis_cpu_s_per_million`` and ``peak_gb_per_million``.
    """
    cpu, peaks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for cells in sizes:
            (root / str(cells)).mkdir()
            write_labs(root / str(cells), cells, genes, per_cell, LABS, seed=0)
        for repeat in range(repeats):
            small, large = (
                _child(
                    root / str(cells), {**_ANALYSIS, **(options or {})}, root / f"{cells}-{repeat}"
                )
                for cells in sizes
            )
            more = (large["cells"] - small["cells"]) / 1e6
            cpu.append((large["cpu_s"] - small["cpu_s"]) / more)
            peaks.append((large["peak_gb"] - small["peak_gb"]) / more)
    return {"analysis_cpu_s_per_million": cpu, "peak_gb_per_million": peaks}


_ANALYSIS = {"method": "fedpca", "integrate": "harmony", "files": False, "draw_map": False}


def main() -> None:
    """Write labs, measure and print, one line of JSON for each number of cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--genes", type=int, default=_GENES)
    parser.add_argument("--per-cell", type=int, default=_PER_CELL)
    parser.add_argument("--labs", type=int, default=LABS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={"method": "fedpca"}, help="JSON")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("-o", "--output", type=Path, help="JSON file to add the figures to")
    parser.add_argument("--measure", type=Path, help="measure this folder of labs, here")
    parser.add_argument("--plot", type=Path, nargs=2, help="JSON file, and the figure to draw")
    given = parser.parse_args()
    if given.plot:
        runs = json.loads(given.plot[0].read_text())
        draw(runs, given.plot[1])
        of_all = slope([run["cells"] for run in runs], [run["cpu_s"] for run in runs])
        print(f"slope of CPU seconds over cells, logarithms of both: {of_all:.2f}")  # noqa: T201
        return
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, given.options)))  # noqa: T201
        return
    options = {"integrate": "harmony", "files": False, "seed": given.seed, **given.options}
    for cells in given.cells:
        data = given.folder / f"labs-{given.labs}-{cells}"
        if not data.exists():
            data.mkdir(parents=True)
            write_labs(data, cells, given.genes, given.per_cell, given.labs, given.seed)
        scratch = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            found = _child(data, options, scratch)
        finally:
            shutil.rmtree(scratch)
        print(json.dumps({**found, "memory": None}), flush=True)  # noqa: T201
        if given.output:
            old = json.loads(given.output.read_text()) if given.output.exists() else []
            given.output.write_text(json.dumps([*old, found]))


if __name__ == "__main__":
    main()
