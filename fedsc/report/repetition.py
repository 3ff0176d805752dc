"""What it takes to repeat the run: options, versions, one command."""

import shlex
from pathlib import Path
from typing import Any

import tomli_w

from fedsc.config import OF_SIMULATION, WHERE, Config
from fedsc.report.parts import Section, Table, as_option
from fedsc.results import Run


def repetition(run: Run) -> Section:
    """Give the options that are not the defaults, and the command that repeats the run."""
    default = _defaults(run)
    rows = [
        (name, as_option(value), as_option(default.get(name)))
        for name, value in _changed(run).items()
    ]
    head = ("option", "here", "default")
    texts = []
    dataset = str(run.options.get("dataset", ""))
    if run.of_real_labs:
        texts.append(
            f"{FROM_A_DEPLOYMENT} The labs bring their own files, and say how these are read."
        )
    elif "/" in dataset and not Path(dataset).exists():
        texts.append(
            "The data do not lie where the run found them; of a run from Python they were in "
            "memory. Give dataset where they are now."
        )
    versions = run.record.get("versions") or {}
    tables = [
        Table("Options that differ from their defaults", head, rows),
        Table("Versions", ("package", "version"), [(n, v or "–") for n, v in versions.items()]),
    ]
    return Section("To repeat it", texts, tables=tables, code=_again(run))


FROM_A_DEPLOYMENT = (
    "The labs were real: call the command where the server is, in a clone of FedSC, with FLWR_HOME "
    "set as for this run. fedsc is the deployment's name, if it was given no other."
)
"""What a command of :func:`resumption`, or that of a report, needs where labs are real."""


def resumption(run: Run) -> str:
    """Give the command that goes on with a run, of a simulation or of real labs."""
    folder = str(run.folder.resolve())
    if run.of_real_labs:
        return _flwr_run({"resume": folder, **_given(run)})
    return f"fedsc run --resume {shlex.quote(folder)}"


def _again(run: Run) -> str:
    given = _given(run)
    if run.of_real_labs:
        return _flwr_run({"output": run.options["output"], **given})
    settings = " ".join(f"--set {shlex.quote(f'{n}={as_option(v)}')}" for n, v in given.items())
    return f"fedsc run {settings}"


def _flwr_run(options: dict[str, Any]) -> str:
    # As Flower reads it: TOML, without spaces around the first "=".
    lines = (tomli_w.dumps({name: value}).strip() for name, value in options.items())
    settings = " ".join(line.replace(" = ", "=", 1) for line in lines)
    return f"flwr run . fedsc --run-config {shlex.quote(settings)}"


def _given(run: Run) -> dict[str, Any]:
    return {"method": run.options.get("method", "fedsc"), **_changed(run)}


def _changed(run: Run) -> dict[str, Any]:
    """Give the options that are not the defaults, without those that mean nothing for the run."""
    default = _defaults(run)
    without = {*WHERE, *(OF_SIMULATION if run.of_real_labs else ())}
    return {
        name: value
        for name, value in run.options.items()
        if value != default.get(name) and name not in without
    }


def _defaults(run: Run) -> dict[str, Any]:
    # Some defaults are the method's own.
    default = Config.from_mapping({"method": run.options.get("method", "fedsc")}).to_mapping()
    default["method"] = Config.of().method.name
    return default
