"""``fedsc bench``: a suite of runs, its table and its figures."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedsc.cli.progress import Bars
from fedsc.cli.run import parse_settings
from fedsc.errors import DataError, RunError
from fedsc.files import make_folder, replace
from fedsc.run_files import METRICS

if TYPE_CHECKING:
    from simulations.bench.cell import Cell
    from simulations.bench.execute import Outcome
    from simulations.bench.suite import Suite

_INTERRUPTED = 130


def bench(
    suite: Annotated[
        str | None,
        typer.Argument(help="A suite's name or TOML file, or 'speed'; none: list the suites."),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this set; may be repeated.")
    ] = None,
    line: Annotated[
        list[str] | None, typer.Option(help="Only this line of the table; may be repeated.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds; default: the suite's.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Processes at a time; 0 = one per core.")
    ] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of results; suites share runs in it.")
    ] = Path("bench"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of all federated lines."),
    ] = None,
    tables_only: Annotated[
        bool,
        typer.Option("--tables-only", help="Run nothing; write tables of finished runs."),
    ] = False,
    deployed: Annotated[
        bool,
        typer.Option(help="With 'speed': also rounds of two labs as real processes."),
    ] = False,
    large: Annotated[
        bool,
        typer.Option(help="With 'speed': also how the analysis grows with the cells."),
    ] = False,
) -> None:
    """Run a table of the papers, or a grid of your own, over several seeds.

    Every run (one method, set and seed) that is done is kept in OUTPUT/cells, under a digest of its
    options, of the code, of the packages and of the data: if one of them has changed, it is run
    again. After Ctrl-C or a crash the same command continues. OUTPUT/SUITE gets table.md,
    rows.parquet and the figures of all of the suite's runs that are done, also after Ctrl-C:
    `--dataset`, `--line` and `--seeds` choose what is run, not what is shown. With `--set` it is
    another suite, in a folder of its own.

    **Examples**

    List the suites:

    `fedsc bench`

    The first table of the FedSC paper:

    `fedsc bench fedsc-table1 --seeds 5`

    A quick look at one set:

    `fedsc bench fedsc-table1 --dataset mouse_bladder --seeds 2 --set rounds=20`

    How fast this machine trains, beside plain PyTorch (minutes on a busy machine; writes
    OUTPUT/speed.json; no suite, so other options do not count):

    `fedsc bench speed --deployed --large`

    A grid of your own; the files in simulations/bench/suites are examples:

    `fedsc bench my.toml --jobs 8`
    """
    if suite == "speed":
        _speed(output, deployed, large)
        return
    from simulations.bench.cell import of_other_code_or_data
    from simulations.bench.execute import Outcome, finished, run_cells
    from simulations.bench.report import write_report
    from simulations.bench.suite import load, of_lines, plan

    console = Console(stderr=True)
    if suite is None:
        _list_suites(Console())
        return
    whole, settings = load(suite), parse_settings(set_ or [])
    every = [*(data.name for data in whole.datasets), *(dataset or [])]
    shown = whole.narrowed(every, max(whole.seeds, seeds or 0), settings)
    of_tables = plan(shown)
    chosen = _without_absent_sets(whole.narrowed(dataset or [], seeds, settings), console)
    planned = of_lines(plan(chosen), line or [])
    cells = list({cell.key: cell for _, cell in planned}.values())
    kept = (output / "cells").resolve()
    outcome, stopped = Outcome({}, {}), False
    if other := sum(of_other_code_or_data(cell, kept) for cell in cells):
        console.print(
            f"{other} of {len(cells)} runs are done with other code, packages or data: not used, "
            f"left as they are in {kept}",
            highlight=False,
            soft_wrap=True,
        )
    if tables_only:
        outcome = finished(cells, kept)
    else:
        with Bars(console) as bars:

            def watch(found: "Outcome", running: "list[Cell]") -> None:
                nonlocal outcome
                outcome = found
                _show(bars, kept, outcome, running, len(cells))

            try:
                outcome = run_cells(cells, kept, jobs or os.cpu_count() or 1, watch)
            except KeyboardInterrupt:
                stopped = True
    runs = {cell.key: f"{p.dataset}, {p.words}, seed {cell.seed}" for p, cell in planned}
    for key, reason in outcome.failures.items():
        console.print(
            f"{runs[key]} failed: {reason} ({key})", highlight=False, soft_wrap=True, markup=False
        )
    if rows := finished([cell for _, cell in of_tables], kept).rows:
        console.print("writing tables and figures …")
        changed = [f"{name}-{value}".replace("/", "-") for name, value in settings.items()]
        folder = output / "-".join([Path(suite).stem, *changed])
        command = f"fedsc bench {' '.join([suite, *(f'--set {s}' for s in set_ or [])])}"
        for path in write_report(shown, of_tables, rows, kept, folder, command):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if stopped:
        console.print(f"stopped with {len(outcome.rows)} of {len(cells)} runs done; run it again")
        sys.exit(_INTERRUPTED)
    if outcome.failures:
        raise RunError(f"{len(outcome.failures)} of {len(cells)} runs failed (see above)")


def _speed(output: Path, deployed: bool, large: bool) -> None:
    """Measure, write ``speed.json`` and show it as a table."""
    from simulations.bench.speed import as_json, measure

    found = measure(deployed, large)
    path = make_folder(output) / "speed.json"
    replace(path, as_json(found))
    table = Table("figure", "median", "min", "max")
    machine = found["machine"]
    for name, spread in {**found, "gflops": machine["gflops"]}.items():
        if name != "machine":
            table.add_row(name, *(f"{spread[of]:.3g}" for of in ("median", "min", "max")))
    console = Console()
    console.print(table)
    console.print(
        f"{machine['cores']} cores, load {machine['load']}; torch {machine['torch']}; written: "
        f"{path}; what each figure is: docs/performance.md",
        highlight=False,
        soft_wrap=True,
    )


def _show(bars: Bars, kept: Path, outcome: "Outcome", running: "list[Cell]", total: int) -> None:
    """Show how many cells are done; those under way count by their rounds."""
    shares = [_share(cell, kept) for cell in running]
    words = ", ".join(
        f"{cell.method} {cell.dataset} seed {cell.seed} {share:.0%}"
        for cell, share in zip(running, shares, strict=True)
    )
    done = len(outcome.rows) + len(outcome.failures)
    bars.show("runs", done + sum(shares), total, words)


def _share(cell: "Cell", kept: Path) -> float:
    """Tell how much of a cell is done, from the rounds it has written down."""
    metrics = kept / cell.key / METRICS
    if not metrics.exists():
        return 0.0
    config = cell.config(kept)
    lines = metrics.read_bytes().count(b"\n")
    return min(lines / (config.training.rounds * config.split.labs), 1.0)


def _list_suites(console: Console) -> None:
    from simulations.bench.suite import expand, load, suites

    table = Table("suite", "what it is", "runs")
    for name in suites():
        suite = load(name)
        cells = {cell.name for _, cell in expand(suite)}
        table.add_row(name, suite.title, str(len(cells)))
    console.print(table)


def _without_absent_sets(suite: "Suite", console: Console) -> "Suite":
    """Leave out the sets this machine neither has nor can get, and say so."""
    from fedsc.data.registry import resolve

    there = []
    for data in suite.datasets:
        try:
            resolve(data.name)
            there.append(data)
        except DataError as error:
            console.print(f"left out: {error}", highlight=False, soft_wrap=True, markup=False)
    if not there:
        raise DataError("none of the suite's sets is there (see above)")
    return suite.model_copy(update={"datasets": tuple(there)})
