"""``fedsc deploy …``: certificates, keys and containers for real labs."""

import signal
import time
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from deployment import registration
from deployment.layout import Deployment, load
from fedsc.cli.reading import BatchKey, FoldCase, LabelKey, Layer, MakeUnique, Symbols
from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError, RunError

deploy = typer.Typer(
    name="deploy",
    help="Set up real labs: certificates, keys, containers; or all of it on this machine.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="The deployment's folder.")]
Labs = Annotated[str, typer.Option(help="Names of the labs, separated by commas.")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="LAB=FILE", help="A lab's file; may be repeated."),
]


@deploy.command()
def init(
    labs: Labs,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address at which labs reach the server; may be repeated, labs use the "
            "first. Default: localhost."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port for the labs.")] = 8443,
    control_port: Annotated[
        int, typer.Option(help="TCP port for `flwr` on the server's own machine.")
    ] = 8444,
    name: Annotated[str, typer.Option(help="Flower's name of it: `flwr run . NAME`.")] = "fedsc",
) -> None:
    """Make certificates, keys, compose files and instructions, one folder for each site.

    **Examples**

    `fedsc deploy init --labs charite,ukb --output federation --host fedsc.example.org`
    """
    from deployment.certificates import CA_DAYS, SERVER_DAYS
    from deployment.init import create

    deployment = create(
        output,
        _names(labs),
        hosts=host or ["localhost"],
        port=port,
        control_port=control_port,
        name=name,
    )
    typer.echo(
        f"{output}: labs {', '.join(deployment.labs)}, server {deployment.address}; the server's "
        f"certificate is valid for {SERVER_DAYS} days, the authority's for {CA_DAYS // 365} years"
    )
    typer.echo(f"what to do next: {output / 'README.txt'}")


@deploy.command()
def add(folder: Folder, labs: Labs) -> None:
    """Add labs to a deployment. Needs the authority's key."""
    from deployment import init as making

    new = _names(labs)
    making.add(load(folder), new)
    for lab in new:
        typer.echo(f"new: {folder / 'labs' / lab}")
    typer.echo("compose files are written anew; what was changed in the old ones is in *.yml.bak")
    typer.echo(f"then, when the server runs: fedsc deploy register {folder}")


@deploy.command()
def renew(folder: Folder) -> None:
    """Issue a new certificate for the server. Labs need nothing new."""
    from deployment import init as making
    from deployment.certificates import SERVER_DAYS

    making.renew(load(folder))
    typer.echo(
        f"{folder / 'server' / 'server.crt'} is valid for {SERVER_DAYS} days; restart the server"
    )


@deploy.command()
def register(folder: Folder) -> None:
    """Register the labs' names and keys with the running server, on the server's machine."""
    new = registration.register(load(folder))
    typer.echo(f"registered: {', '.join(new)}" if new else "every lab is registered already")


@deploy.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The deployment's folder, or one lab's.")],
    data: Data = None,
    layer: Layer = "",
    label_key: LabelKey = "",
    batch_key: BatchKey = "",
    symbols: Symbols = "",
    make_unique: MakeUnique = False,
    fold_case: FoldCase = False,
) -> None:
    """List all problems with certificates, keys, files, data, ports and disk.

    Data are read as --layer, --label-key and so on say, so give these as the run will have them.
    A note says what is not there yet, such as a server or data, and so was not checked.

    The exit code is 0 if there is no problem, else 2.
    """
    from deployment.check import notes_of, problems_of

    files = _data(data)
    how = ReadAs(layer, label_key, symbols, make_unique, fold_case)
    problems = problems_of(folder, files, how, batch_key)
    for note in notes_of(folder, files):
        typer.echo(f"note: {note}")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    if problems:
        raise typer.Exit(2)
    typer.echo(f"{folder}: nothing is wrong with what is there")


@deploy.command()
def local(folder: Folder, data: Data = None) -> None:
    """Run server and labs on this machine, without containers, until Ctrl-C.

    A process that dies is started again. The folder keeps runs and registered labs. Then, in
    another shell:

    `FLWR_HOME=DIR/flwr flwr run . NAME --run-config 'output="/abs/runs" wait-for-labs=2'`

    **Examples**

    `fedsc split cells.h5ad -o labs --labs 2 --label-key cell_type`

    `fedsc deploy local federation --data A=labs/lab-0.h5ad --data B=labs/lab-1.h5ad`
    """
    from deployment.local import running

    deployment = load(folder)
    files = {lab: deployment.lab(lab) / "data" / "cells.h5ad" for lab in deployment.labs}
    console = Console()
    for ending in _ENDINGS:
        signal.signal(ending, _interrupt)
    try:
        console.print("starting …")
        with running(deployment, files | _data(data)) as supervisor:
            console.print(
                f"all labs are online; now, elsewhere:\n"
                f"  export FLWR_HOME={deployment.flwr_home}\n"
                f"  flwr run . {deployment.name} --run-config "
                f"'output=\"{deployment.server / 'runs'}\" wait-for-labs={len(deployment.labs)}'\n"
                f"logs: {deployment.logs}; Ctrl-C stops",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            said: dict[str, str] = {}
            while True:
                states = _states(deployment, supervisor.states())
                for process, state in states.items():
                    if said.get(process) != state:
                        console.print(f"{datetime.now():%H:%M:%S} {process}: {state}", markup=False)
                said = states
                time.sleep(_SECONDS)
    except KeyboardInterrupt:
        console.print("stopped")


_SECONDS = 15.0  # asking Flower takes a second of a core


def _states(deployment: Deployment, states: dict[str, str]) -> dict[str, str]:
    """Add to each SuperNode's state whether the server sees it."""
    try:
        there = registration.online(deployment)
    except RunError:
        return states | {"server": "does not answer"}
    seen = {
        f"supernode-{lab}": "online" if lab in there else "not online" for lab in deployment.labs
    }
    return {
        name: f"{state}, {seen[name]}" if name in seen else state for name, state in states.items()
    } | {"server": "answers"}


# A service manager says SIGTERM, a terminal that closes SIGHUP, where a person says Ctrl-C.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    for ending in _ENDINGS:  # once is enough; a second one must not leave processes behind
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def _names(labs: str) -> list[str]:
    return [name.strip() for name in labs.split(",") if name.strip()]


def _data(given: list[str] | None) -> dict[str, Path]:
    """Parse ``LAB=FILE``.

    Raises
    ------
    ConfigError
        If one is not of that form, or a lab is given twice.
    """
    files: dict[str, Path] = {}
    for each in given or []:
        lab, equals, path = each.partition("=")
        if not (lab and equals and path):
            raise ConfigError(f"--data {each!r}: should be LAB=FILE")
        if lab in files:
            raise ConfigError(f"--data {lab}=…: given twice")
        files[lab] = Path(path).expanduser()
    return files
