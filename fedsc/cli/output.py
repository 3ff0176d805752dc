"""Where a command writes what a person asked for: one rule for all of them."""

from pathlib import Path
from typing import Annotated

import typer

from fedsc.errors import ConfigError

Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]
_PICTURES = (".png", ".svg", ".pdf")


def check_output(path: Path, *endings: str, force: bool) -> None:
    """Refuse a file to write before any work is done for it.

    Parameters
    ----------
    path
        The file.
    endings
        Of which its name should have one: they say what is written.
    force
        Whether it may be there already.

    Raises
    ------
    ConfigError
        If its name ends otherwise, it is there already and ``force`` is not given, or its folder
        is not there.
    """
    if path.suffix not in endings:
        *others, last = endings
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{path}: the name of this output should end in {wanted}")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: choose another name, or replace it with --force")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")


def check_plot(path: Path, *, force: bool) -> None:
    """Refuse a picture to write, as :func:`check_output`."""
    check_output(path, *_PICTURES, force=force)
