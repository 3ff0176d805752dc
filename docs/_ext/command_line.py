"""The command line as sphinx-click reads it."""

import typer

from fedsc.cli import app

command = typer.main.get_command(app)
