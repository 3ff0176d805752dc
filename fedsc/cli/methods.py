"""``fedsc methods``: the federated methods by name."""

from rich.console import Console
from rich.table import Table

from fedsc.methods import METHODS


def methods() -> None:
    """List the federated methods, for `fedsc run --method NAME`."""
    table = Table("method", "what it is", "pull")
    for name, method in METHODS.items():
        table.add_row(name, method.title, method.pull)
    table.add_row("MODULE:ATTRIBUTE", "an Objective of your own", "none")
    Console().print(table)
