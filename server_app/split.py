"""What follows from how one set was split into labs: what is refused, and what has to be said."""

import numpy as np

from fedsc.config import Config
from fedsc.errors import ConfigError
from partitioning.simulation import simulated_labs
from server_app.federation import Federation


def scheme_of(federation: Federation, config: Config) -> str:
    """Tell how one set was split into labs; ``""`` where each lab has cells of its own."""
    if not all(about.simulated for about in federation.labs.values()):
        return ""
    return simulated_labs(config.data, config.split, config.run.seed).scheme


def refuse_integration(config: Config, scheme: str) -> None:
    """Refuse to integrate labs that do not differ by technique.

    Raises
    ------
    ConfigError
        If one set was split by its labels, or at random.
    """
    reason = {
        "subtypes": "labs differ by cell type there, and types would be pulled over one another",
        "dirichlet": "labs differ by cell type there, and types would be pulled over one another",
        "iid": "labs do not differ there, so there is nothing to bring together",
    }.get(scheme)
    if reason is not None:
        raise ConfigError(
            f"integrate = '{config.analysis.integrate}' on a split of partition = '{scheme}': "
            f"{reason}; use partition = 'column', a file for each lab, or integrate = 'none'"
        )


def left_out(federation: Federation, config: Config) -> list[str]:
    """Say which cells of a simulated set no lab holds."""
    if not all(about.simulated for about in federation.labs.values()):
        return []
    left = simulated_labs(config.data, config.split, config.run.seed).left_out
    if left is None or left.labels is None:
        return []
    types, counts = np.unique(left.labels, return_counts=True)
    named = ", ".join(f"{name} ({n})" for name, n in zip(types, counts, strict=True))
    return [
        f"cover = drop: {len(left.cells)} cells of {len(types)} types are in no lab: {named}; only "
        "the pooled scores count them; cover = all deals them too"
    ]


def leaks(federation: Federation, config: Config) -> list[str]:
    """Say so where per-lab statistics hand the labels of a label-made split to the clustering."""
    scheme = scheme_of(federation, config)
    per_lab = [
        name
        for name, used in {
            "scale = 'lab'": config.data.scale == "lab",
            "local-norm": config.method.local_norm,
        }.items()
        if used
    ]
    if not (scheme in ("subtypes", "dirichlet") and per_lab):
        return []
    return [
        f"{' and '.join(per_lab)} on a split made from labels ({scheme}): a lab is a "
        "set of labels here, so per-lab statistics leak them and the scores mean nothing; use "
        "partition = 'column' or 'iid'"
    ]
