"""What no run of a suite can begin with, found before the first begins."""

from pathlib import Path

from fedsc.baselines import METHODS as CENTRALISED
from fedsc.errors import ConfigError
from fedsc.methods import METHODS as FEDERATED
from fedsc.methods import load_objective, method_of
from partitioning.simulation import holds_labs
from simulations.bench.cell import Cell


def require_method(method: str) -> None:
    """Refuse the name of a method that is none.

    Raises
    ------
    ConfigError
        Naming those there are.
    """
    known = (*FEDERATED, *CENTRALISED)
    if method not in known and ":" not in method:
        raise ConfigError(
            f"should be one of {', '.join(known)}, or 'module:ATTRIBUTE' of your own Objective"
        )


def check(cell: Cell) -> None:
    """Refuse a cell that could not run on any data.

    Raises
    ------
    ConfigError
        If its method or an option is unknown or out of range, or its method cannot be imported.
    """
    from fedsc.baselines.fitting import preset_of
    from server_app.split import refuse_integration_of

    if cell.centralised:
        settings, k = cell.settings(Path())
        preset_of(cell.method, settings, k)
        return
    config = cell.config(Path())
    if cell.method not in FEDERATED:
        load_objective(method_of(config.method))
    if config.analysis.integrate != "none" and not holds_labs(Path(cell.dataset)):
        refuse_integration_of(config, config.split.scheme)
