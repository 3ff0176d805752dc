"""``fedsc run``: a whole federated run, blocking, with a progress bar."""

import json
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedsc.cli.progress import RunProgress
from fedsc.config import TEXTS, Config
from fedsc.errors import ConfigError
from fedsc.methods import load_objective, method_of
from fedsc.options import kebab
from fedsc.run_files import CONFIG

_INTERRUPTED = 130


class Engine(StrEnum):
    """Where the labs of a simulation run."""

    inprocess = "inprocess"
    flower = "flower"


def run(
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Name of a known set, a file or 10x folder, or a folder with one file per lab."
        ),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with cell types, for splits and scores.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="See `fedsc methods`.")] = None,
    labs: Annotated[int | None, typer.Option(help="Number of labs.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="How a set is split: subtypes, iid, dirichlet or column.")
    ] = None,
    subtypes_per_lab: Annotated[
        int | None, typer.Option(help="Cell types per lab; default: the known set's own, or 2.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Communication rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of split, weights and masks.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder in which the run folder is made.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder to go on with; its options apply.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other option (see `fedsc options`); may be repeated.",
        ),
    ] = None,
    files: Annotated[
        bool | None,
        typer.Option(
            "--files/--no-files",
            help="Each lab's cells with the results, report.html and curves.png; default: --files.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="This process and its forks, or Flower's SuperLink and Ray; same bits."),
    ] = Engine.inprocess,
    nodes: Annotated[
        int, typer.Option(min=1, help="Simulated nodes that the labs are spread over.")
    ] = 2,
    processes: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many labs train at the same time, each in a process of its own (engine "
            "inprocess); 1 = one after the other, 0 = one for every core where it is worth it.",
        ),
    ] = 0,
    gpus: Annotated[
        float, typer.Option(min=0, help="Share of a GPU each node gets (engine flower).")
    ] = 0.0,
) -> None:
    """Train one encoder across labs, cluster all cells with it, and score the clusters.

    Beside the scores stands the floor: the same clustering without any training. The run folder
    keeps all options in config.json.

    **Examples**

    The set that comes with FedSC (4271 blood cells), 4 labs with 2 cell types each:

    `fedsc run`

    Your file, split into 4 labs with 2 cell types each:

    `fedsc run --dataset cells.h5ad --label-key cell_type --subtypes-per-lab 2`

    A folder with one file per lab, no training, labs of different techniques:

    `fedsc run --dataset labs/ --method fedpca --set integrate=harmony`

    A real column as labs, another method, two more options:

    `fedsc run --dataset cells.h5ad --partition column --set partition-key=donor --method fedbyol
    --set n-genes=2000 --set genes=union`

    Under Flower's SuperLink, with Ray, as `flwr run .` does it:

    `fedsc run --engine flower --nodes 4`

    Go on with a run that was stopped:

    `fedsc run --resume runs/20260101-120000-fedsc-cells-seed0`
    """
    if gpus and engine is not Engine.flower:
        raise ConfigError(f"--gpus {gpus:g}: nodes share a GPU under Ray; add --engine flower")
    if processes and engine is Engine.flower:
        raise ConfigError(
            f"--processes {processes}: under --engine flower nodes have processes of Ray's; say "
            "how many with --nodes"
        )
    given = {
        "dataset": dataset,
        "label-key": label_key,
        "method": method,
        "labs": labs,
        "partition": partition,
        "subtypes-per-lab": subtypes_per_lab,
        "rounds": rounds,
        "seed": seed,
        "output": None if output is None else str(output),
        "files": files,
    }
    options = {key: value for key, value in given.items() if value is not None}
    options |= parse_settings(set_ or [])
    config = _config(options, resume)
    method_ = method_of(config.method)
    if method_.objective:
        load_objective(method_)

    console = Console(stderr=True)
    folder = (
        Path(config.run.resume) if config.run.resume else Path(config.run.output) / config.run.name
    )
    try:
        with RunProgress(folder, config.training.rounds, console):
            if engine is Engine.flower:
                from simulations.flower import run_flower

                run_flower(config, nodes, gpus)
            else:
                from simulations.inprocess import run_inprocess, silence_flower

                silence_flower()
                run_inprocess(config, nodes, processes)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: fedsc run --resume {folder}", soft_wrap=True)
        sys.exit(_INTERRUPTED)
    _report(folder, Console())


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` as TOML does; what is no TOML, or names something, is taken as text.

    Raises
    ------
    ConfigError
        If a setting has no ``=``.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: should be KEY=VALUE, e.g. --set n-genes=2000")
        name = key.strip()
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value
        # A run or a column may have a name that looks like a date or a number.
        parsed[name] = read if isinstance(read, str) or kebab(name) not in TEXTS else value
    return parsed


def _config(options: dict[str, Any], resume: Path | None) -> Config:
    """Complete the options with what this process knows: absolute paths and the run's name."""
    if resume is not None:
        try:
            saved = json.loads((resume / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--resume {resume}: not a run folder ({error})") from error
        return Config.from_mapping(saved | options | {"resume": str(resume.resolve())})
    from fedsc.data.registry import resolve
    from partitioning.simulation import with_own_k
    from server_app.run_folder import new_name

    config = Config.from_mapping(options)
    config = Config.from_mapping(with_own_k(options, resolve(config.data.dataset)))
    paths = {
        key: str(Path(value).resolve())
        for key, value in (
            ("dataset", config.data.dataset),
            ("reference-genes", config.data.reference_genes),
            ("output", config.run.output),
        )
        if value and (key == "output" or Path(value).exists())
    }
    return config.replace(**paths, run_name=config.run.name or new_name(config))


def _report(folder: Path, console: Console) -> None:
    from fedsc.results import WAYS, load

    run = load(folder)
    found, floor = run.record, run.record["floor"] or {}
    table = Table("clusters", "how many", "ARI", "NMI", "floor: ARI", "NMI")
    for way, title in WAYS.items():
        if found.get(way) is not None:
            names = ("clusters", "ari", "nmi")
            values = [found[way].get(name) for name in names]
            values += [(floor.get(way) or {}).get(name) for name in names[1:]]
            table.add_row(title, *(_cell(value) for value in values))
    console.print(table)
    if floor:
        console.print("floor: the same without training, on principal components", markup=False)
        behind = [title for way, title in WAYS.items() if run.training_helped(way) is False]
        if behind:
            console.print(
                f"training has not helped ({'; '.join(behind)}): the floor's ARI is not lower; "
                "--method fedpca gives its clusters without training",
                markup=False,
                soft_wrap=True,
            )
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    here = folder.resolve()
    console.print(f"run folder: {here}", highlight=False, soft_wrap=True)
    if (here / "report.html").exists():
        console.print(f"report: {here / 'report.html'}", highlight=False, soft_wrap=True)
    if files := sorted((here / "labs").glob("*.h5ad")):
        console.print(
            f"cells: {len(files)} files for scanpy, {files[0]} …", highlight=False, soft_wrap=True
        )
    console.print(
        f"next: fedsc embed NEW.h5ad --model {here} -o OUT.h5ad", highlight=False, soft_wrap=True
    )


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
