"""Where a command writes what a person asked for: one rule for all of them."""

from pathlib import Path
from typing import Annotated

import typer

from fedsc.errors import ConfigError

Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]
_PICTURES = (".png", ".svg", ".pdf")


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a file to write before any work is done for it.

    Raises
    ------
    ConfigError
        If it is there already and ``force`` is not given, or its folder is not there.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: choose another name, or replace it with --force")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")


def check_plot(path: Path, *, force: bool) -> None:
    """Refuse a picture to write, as :func:`check_output`, or one of an unknown format."""
    if path.suffix not in _PICTURES:
        raise ConfigError(f"--plot {path}: should end in .png, .svg or .pdf")
    check_output(path, force=force)
