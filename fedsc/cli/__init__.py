"""The command line: ``fedsc …``. The one room of ``fedsc`` that may use the rooms above it."""

import errno
import sys
from typing import Annotated

import typer

import fedsc
from fedsc.errors import ConfigError, DataError, FedscError

app = typer.Typer(
    name="fedsc",
    help="Cluster single-cell RNA-seq data across labs without moving a cell.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.suggest_commands = False  # click does it: not twice


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(fedsc.__version__)
        raise typer.Exit


@app.callback()
def _any_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version."),
    ] = False,
) -> None:
    pass


def _register() -> None:
    from fedsc.cli.bench import bench
    from fedsc.cli.check import check
    from fedsc.cli.concat import concat
    from fedsc.cli.datasets import datasets
    from fedsc.cli.deploy import deploy
    from fedsc.cli.embed import embed
    from fedsc.cli.fit import fit
    from fedsc.cli.methods import methods
    from fedsc.cli.options import options
    from fedsc.cli.report import report
    from fedsc.cli.run import run
    from fedsc.cli.split import split
    from fedsc.cli.status import status
    from fedsc.cli.synthesize import synthesize

    for command in (
        run,
        report,
        concat,
        embed,
        fit,
        bench,
        check,
        split,
        datasets,
        synthesize,
        methods,
        options,
        status,
    ):
        app.command()(command)
    app.add_typer(deploy)


_register()

_OF_THE_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR),
)


def main() -> None:
    """Run the command line; an error of ours is one line on stderr, without a traceback."""
    try:
        app()
    except FedscError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, ConfigError | DataError) else 1)
    except OSError as error:  # of a file or folder that no sentence of ours is about
        if error.errno not in _OF_THE_MACHINE or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
