"""What has to be said of the labs that take part, before they train and at the end again."""

from collections.abc import Collection

from fedsc.config import Config
from fedsc.data.groups import doubtful_types
from server_app.federation import Federation
from server_app.split import simulation_of


def remarks(federation: Federation, config: Config) -> list[str]:
    """Say what a person may not have meant: one lab alone, files that are no labs, odd types."""
    labs = list(federation.labs)
    found = [
        f"only one lab takes part ({labs[0]}): nothing is federated" if len(labs) == 1 else "",
        simulation_of(federation, config).not_read,
        doubtful_types(federation.types),
    ]
    return [remark for remark in found if remark]


def newcomers(federation: Federation, agreed: Collection[str]) -> list[str]:
    """Name labs that came after genes and statistics were agreed on, as in a resumed run.

    Parameters
    ----------
    federation
        The labs.
    agreed
        Those that took part in that; empty = not known.
    """
    late = sorted(federation.labs.keys() - set(agreed)) if agreed else []
    return [
        f"lab {lab} came after genes and statistics were agreed on: its cells are prepared by "
        f"those of {', '.join(agreed)}; only a new run counts it in"
        for lab in late
    ]
