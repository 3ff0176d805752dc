"""``fedsc report``: a run for a person, as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from fedsc.cli.output import Force, check_output


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: report.html in the folder.")
    ] = None,
    force: Force = False,
) -> None:
    """Write the report of a run: one HTML page that asks nothing of any other.

    Every run writes it at its end, unless it was told to leave files out; report.html in the
    folder is made anew.

    **Examples**

    `fedsc report runs/my-run`

    `fedsc report runs/my-run -o /tmp/for-a-colleague.html`
    """
    from fedsc.report.run import write_report

    if output is not None:
        check_output(output, ".html", ".htm", force=force)
    typer.echo(f"report: {write_report(run, output).resolve()}")
