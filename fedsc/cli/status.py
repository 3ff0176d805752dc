"""``fedsc status``: the state of a run in a deployment."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployment.status import Progress, Status, read_status


def status(
    connection: Annotated[
        str, typer.Argument(help="Flower's name of the server, as in `flwr run . NAME`.")
    ] = "",
    run_id: Annotated[str, typer.Option(help="Default: the newest run.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show the state of a run: round, loss, time left, which labs are there.

    Set FLWR_HOME as README.txt of the deployment says; the server's address is read from there.
    What the run does comes from log.jsonl in its folder. Where that is on another machine, it comes
    from `flwr log`, and the command says so. It starts nothing. A run of `fedsc run` in its own
    process is not shown: look into its folder.

    **Examples**

    `FLWR_HOME=federation/flwr fedsc status`

    `FLWR_HOME=federation/flwr fedsc status fedsc --json`
    """
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    found = read_status(connection, run_id, home=home)
    if json_:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    console = Console()
    for name, value in describe(found):
        line = f"[bold]{name:<10}[/] {escape(value)}"
        console.print(line, highlight=False, soft_wrap=True)
    if not found.labs:
        return
    table = Table("lab", "state", "last seen")
    now = datetime.now(UTC)
    for lab in found.labs:
        state = "[bold red]absent[/]"
        if lab.present:
            state = "[bold red]out[/]" if lab.out else "present"
        ago = "never" if lab.last_seen is None else f"{_duration(now - lab.last_seen)} ago"
        seen = "now" if lab.present else ago
        table.add_row(lab.name, state, seen)
    console.print(table)


def describe(status: Status) -> list[tuple[str, str]]:
    """Put a status into pairs of a name and a value."""
    progress = status.progress
    rows = [("server", status.server), ("run", f"{status.run_id or 'none yet'}: {status.state}")]
    if status.details:
        rows.append(("why", status.details))
    if progress.phase and not status.state.startswith("finished"):
        rows.append(("phase", progress.phase))
    if progress.rounds:
        rows.append(("round", f"{progress.round} of {progress.rounds}{_labs(progress)}"))
    if progress.loss is not None:
        rows.append(("loss", f"{progress.loss:.4f}"))
    if status.run_id:
        rows.append(("elapsed", _duration(timedelta(seconds=status.elapsed))))
    if progress.kmeans and status.seconds_left is not None:
        rows.append(
            ("time left", f"unknown: training is done, k-means after {progress.kmeans} iterations")
        )
    elif status.seconds_left is not None:
        rows.append(
            (
                "time left",
                f"about {_duration(timedelta(seconds=status.seconds_left))}, then scoring",
            )
        )
    failed = progress.failed or {}
    rows += [("failed", f"{lab}: {why}") for lab, why in failed.items()]
    rows += [
        ("out", f"{lab}: {why}") for lab, why in progress.out.items() if failed.get(lab) != why
    ]
    rows += [
        (f"{lab}'s file", f"{file} (in the lab's own folder)")
        for lab, file in progress.files.items()
    ]
    if progress.folder:
        rows.append(("folder", f"{progress.folder} (on the server)"))
    if status.run_id and not progress.source:
        rows.append(
            ("source", "the words of `flwr log`: the run folder cannot be read from this machine")
        )
    return rows


def _labs(progress: Progress) -> str:
    return "" if progress.labs is None else ", {} of {} labs".format(*progress.labs)


def _duration(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))
