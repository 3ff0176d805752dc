"""The federated methods by name: which objective a lab trains, which pull the server applies.

Names are looked up here alone. ``method = "module:ATTRIBUTE"`` runs an :class:`Objective` from
any importable module, which is how a new idea is tried without touching the package.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from fedsc.errors import ConfigError, with_place
from fedsc.options import MethodOptions

if TYPE_CHECKING:
    from fedsc.ssl.objective import Objective


@dataclass(frozen=True)
class Method:
    """A row of the papers' tables.

    Attributes
    ----------
    objective
        ``"module:ATTRIBUTE"`` of the :class:`~fedsc.ssl.objective.Objective`; ``""`` for a method
        that trains nothing.
    pull
        Its rule for the labs' next start weights, unless the options name another.
    title
        What it is, in a line.
    """

    objective: str
    pull: str
    title: str


METHODS = {
    "fedsc": Method("fedsc.ssl.byol:OBJECTIVE", "fedsc", "BYOL, divergence-aware pull (FedSC)"),
    "fedbyol": Method("fedsc.ssl.byol:OBJECTIVE", "none", "BYOL, FedAvg"),
    "fedsimsiam": Method("fedsc.ssl.simsiam:OBJECTIVE", "none", "SimSiam, FedAvg"),
    "fedsimclr": Method("fedsc.ssl.simclr:OBJECTIVE", "none", "SimCLR, FedAvg"),
    "fedmoco-v1": Method("fedsc.ssl.moco:V1", "none", "MoCo v1, FedAvg"),
    "fedmoco-v2": Method("fedsc.ssl.moco:V2", "none", "MoCo v2, FedAvg"),
    "fedpca": Method("", "none", "Exact federated PCA and k-means, no training"),
}


def method_of(options: MethodOptions) -> Method:
    """Look up a method by name; its ``pull`` is the one the options name, if they do.

    Raises
    ------
    ConfigError
        If the name is neither known nor an importable ``module:ATTRIBUTE``.
    """
    name = options.name
    if name in METHODS:
        method = METHODS[name]
    elif ":" in name:
        method = Method(name, "none", name)
    else:
        allowed = ", ".join(METHODS)
        raise ConfigError(
            f"option method = {name!r}: should be one of {allowed}, or 'module:ATTRIBUTE' of an "
            "Objective of your own"
        )
    return Method(method.objective, options.pull or method.pull, method.title)


def load_objective(method: Method) -> "Objective":
    """Import a method's objective (this imports torch).

    Raises
    ------
    ConfigError
        If module or attribute are missing, the module cannot be imported, or the attribute is not
        an Objective.
    """
    from fedsc.ssl.objective import Objective

    module, _, attribute = method.objective.partition(":")
    option, hint = f"option method = {method.objective!r}", ""
    try:
        found = import_module(module)
    except Exception as error:  # a module may do anything when it is imported
        # What is not found says so itself; ":X" names no module.
        why = str(error) if isinstance(error, ImportError) or not module else with_place(error)
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            hint = "; put its folder on Python's path: export PYTHONPATH=$PWD"
        raise ConfigError(f"{option}: {why}{hint}", f"{option}: cannot be imported") from error
    objective = getattr(found, attribute, None)
    if objective is None:
        raise ConfigError(
            f"{option}: module '{module}' has no attribute '{attribute}'",
            f"{option}: cannot be imported",
        )
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"{option}: should be a fedsc.ssl.objective.Objective, not {type(objective).__name__}"
        )
    return objective
