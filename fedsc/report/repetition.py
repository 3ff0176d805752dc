"""What it takes to repeat the run: options, versions, one command."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedsc.config import OF_SIMULATIONS, WHERE, Config
from fedsc.report.parts import Section, Table, as_option
from fedsc.results import Run


def repetition(run: Run) -> Section:
    """Give the options that are not the defaults, and the command that repeats the run."""
    options = run.options
    real = run.of_real_labs
    aside = {*WHERE, *(OF_SIMULATIONS if real else ())}
    # Some defaults are the method's own.
    default = Config.from_mapping({"method": options.get("method", "fedsc")}).to_mapping()
    default["method"] = Config.of().method.name
    other = {
        name: value
        for name, value in options.items()
        if value != default.get(name) and name not in aside
    }
    rows = [(name, as_option(value), as_option(default.get(name))) for name, value in other.items()]
    given = {"method": options.get("method", "fedsc"), **other}
    head = ("option", "here", "default")
    texts = []
    dataset = str(options.get("dataset", ""))
    if real:
        texts.append(
            "The labs have to be there, with the files they had. Add output, the server's folder "
            "for runs, as docs/deployment.md does."
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
    code = _of_real_labs(given) if real else _of_simulation(given)
    return Section("To repeat it", texts, tables=tables, code=code)


def _of_simulation(options: Mapping[str, Any]) -> str:
    settings = (f"--set {shlex.quote(f'{n}={as_option(v)}')}" for n, v in options.items())
    return f"fedsc run {' '.join(settings)}"


def _of_real_labs(options: Mapping[str, Any]) -> str:
    settings = (tomli_w.dumps({name: value}).strip() for name, value in options.items())
    return f"flwr run . fedsc --run-config {shlex.quote(' '.join(settings))}"
