"""What it takes to repeat the run: options, versions, one command."""

import shlex
from pathlib import Path

from fedsc.config import WHERE, Config
from fedsc.report.parts import Section, Table, as_option
from fedsc.results import Run


def repetition(run: Run) -> Section:
    """Give the options that are not the defaults, and the command that repeats the run."""
    options = run.options
    # Some defaults are the method's own.
    default = Config.from_mapping({"method": options.get("method", "fedsc")}).to_mapping()
    default["method"] = Config.of().method.name
    other = {
        name: value
        for name, value in options.items()
        if value != default.get(name) and name not in WHERE
    }
    rows = [(name, as_option(value), as_option(default.get(name))) for name, value in other.items()]
    given = {"method": options.get("method", "fedsc"), **other}
    settings = " ".join(f"--set {shlex.quote(f'{n}={as_option(v)}')}" for n, v in given.items())
    head = ("option", "here", "default")
    texts = []
    dataset = str(options.get("dataset", ""))
    if "/" in dataset and not Path(dataset).exists():
        texts.append(
            "The data do not lie where the run found them; of a run from Python they were in "
            "memory. Give dataset where they are now."
        )
    versions = run.record.get("versions") or {}
    tables = [
        Table("Options that differ from their defaults", head, rows),
        Table("Versions", ("package", "version"), [(n, v or "–") for n, v in versions.items()]),
    ]
    return Section("To repeat it", texts, tables=tables, code=f"fedsc run {settings}")
