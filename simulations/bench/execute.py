"""Run a suite's cells in parallel processes, one thread each; whatever is finished is kept."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from simulations.bench.cell import Cell, Row, load_row, run_cell

_EVERY = 0.5  # seconds between looks at running cells


@dataclass(frozen=True)
class Outcome:
    """What became of the cells.

    Attributes
    ----------
    rows
        Of the finished cells, by key.
    failures
        Why a cell has no row, in words, by key.
    """

    rows: dict[str, Row]
    failures: dict[str, str]


Watch = Callable[[Outcome, list[Cell]], None]
"""Told twice a second what is finished and which cells are under way."""


def finished(cells: Sequence[Cell], output: Path) -> Outcome:
    """Collect the rows that are there, without running anything."""
    found = {cell.key: load_row(cell, output) for cell in cells}
    return Outcome({key: row for key, row in found.items() if row is not None}, {})


def run_cells(cells: Sequence[Cell], output: Path, jobs: int, watch: Watch) -> Outcome:
    """Run the cells that have no row yet, each in a process of its own.

    A cell that fails does not stop the others. When this function is interrupted the cells under
    way are stopped where they are; the same call goes on with them.

    Parameters
    ----------
    cells
        In the order in which they are to start; the same cell may be named twice.
    output
        Folder of the cells' folders.
    jobs
        Processes at a time.
    watch
        Shows progress.
    """
    outcome = finished(cells, output)
    waiting = list({cell.key: cell for cell in cells if cell.key not in outcome.rows}.values())
    # Threads of one process would fight for the cores the other processes use.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    # A server process that has imported everything forks a fresh process per cell: no start-up
    # cost, and a peak memory that is the cell's own.
    context = get_context("forkserver")
    context.set_forkserver_preload(["simulations.bench.preload"])
    running: dict[int, tuple[BaseProcess, Connection, Cell]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_work, args=(cell, output, theirs), daemon=True
                )
                process.start()
                theirs.close()
                running[process.sentinel] = process, ours, cell
            for sentinel in wait(list(running), timeout=_EVERY):
                assert isinstance(sentinel, int)
                process, ours, cell = running.pop(sentinel)
                row = load_row(cell, output)
                if row is not None:
                    outcome.rows[cell.key] = row
                else:
                    outcome.failures[cell.key] = _reason(process, ours)
            watch(outcome, [cell for _, _, cell in running.values()])
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.join()
    return outcome


def _work(cell: Cell, output: Path, reasons: Connection) -> None:
    """Run a cell in its own process; say why when it fails."""
    from simulations.inprocess import silence_flower

    threading.Thread(target=_end_with_parent, daemon=True).start()
    silence_flower()
    try:
        run_cell(cell, output)
    except KeyboardInterrupt:
        reasons.send("interrupted")
    except Exception as error:
        reasons.send(str(error) or type(error).__name__)


def _end_with_parent() -> None:
    """End this process as soon as the suite's is gone, however that ended.

    A cell left alone would go on for minutes, and keep its lock from whoever runs the suite again.
    """
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _reason(process: BaseProcess, reasons: Connection) -> str:
    process.join()
    if reasons.poll():
        try:
            return str(reasons.recv())
        except EOFError:
            pass
    return f"its process ended with exit code {process.exitcode} (-9: killed, out of memory?)"
