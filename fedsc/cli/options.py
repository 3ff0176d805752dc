"""``fedsc options``: every option of a run, with default, unit and range."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from fedsc.config import groups


class Form(StrEnum):
    """How options are printed."""

    table = "table"
    markdown = "markdown"
    toml = "toml"


@dataclass(frozen=True)
class Option:
    """An option as a person reads it; everything is text."""

    name: str
    default: str
    allowed: str
    unit: str
    meaning: str


def options(
    form: Annotated[
        Form,
        typer.Option("--as", help="A table, Markdown for the docs, or Flower's section of TOML."),
    ] = Form.table,
) -> None:
    """List every option of a run: default, allowed values, unit and meaning.

    **Examples**

    `fedsc options`

    Set one: `fedsc run --set n-genes=2000`, or `flwr run . --run-config "n-genes=2000"`
    """
    if form is Form.markdown:
        typer.echo(markdown(), nl=False)
    elif form is Form.toml:
        typer.echo(toml(), nl=False)
    else:
        _print_table()


def described() -> dict[str, list[Option]]:
    """Give every option, by the title of its group."""
    return {
        f"{name.capitalize()}: {group.__doc__}": [
            _describe(field) for field in group.model_fields.values()
        ]
        for name, group in groups().items()
    }


def markdown() -> str:
    """Write the page of the documentation."""
    lines = [
        "# Options of a run",
        "",
        "Made by `fedsc options --as markdown`. Give an option to `fedsc run --set NAME=VALUE` or",
        'to `flwr run . --run-config "NAME=VALUE"`. Sections in brackets are of the FedSC paper.',
    ]
    for title, listed in described().items():
        lines += ["", f"## {title}", "", "| option | default | allowed | unit | meaning |"]
        lines.append("|---|---|---|---|---|")
        for option in listed:
            cells = (f"`{option.name}`", f"`{option.default}`", option.allowed, option.unit)
            row = " | ".join((*cells, option.meaning.replace("|", "\\|")))
            lines.append(f"| {row} |")
    return "\n".join(lines) + "\n"


def toml() -> str:
    """Write the section ``[tool.flwr.app.config]`` of ``pyproject.toml``."""
    lines = ["[tool.flwr.app.config]"]
    lines += [f"{o.name} = {o.default}" for listed in described().values() for o in listed]
    return "\n".join(lines) + "\n"


def _describe(field: FieldInfo) -> Option:
    extra = field.json_schema_extra
    unit = str(extra["unit"]) if isinstance(extra, dict) else ""
    return Option(
        name=str(field.alias),
        default=json.dumps(field.default),
        allowed=_allowed(field),
        unit=unit,
        meaning=str(field.description),
    )


_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_KINDS = {bool: "true, false", int: "integer", float: "number", str: "text"}


def _allowed(field: FieldInfo) -> str:
    """Say in a few words what an option may be."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(json.dumps(choice) for choice in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(found, name)}"
        for name, sign in _BOUNDS.items()
        for found in field.metadata
        if getattr(found, name, None) is not None
    ]
    kind: Any = field.annotation
    return " ".join([_KINDS[kind], ", ".join(bounds)]).strip()


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, listed in described().items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for heading in ("option", "default", "allowed", "unit", "meaning"):
            table.add_column(heading, overflow="fold", no_wrap=heading == "option")
        for option in listed:
            table.add_row(option.name, option.default, option.allowed, option.unit, option.meaning)
        console.print(table, "", markup=False)
