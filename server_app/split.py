"""What follows from how one set was split into labs: what is refused, and what has to be said."""

import numpy as np

from fedsc.config import Config
from fedsc.errors import ConfigError
from fedsc.federated.mixing import ONE_BATCH
from partitioning.simulation import Simulation, simulated_labs
from protocol.cells import cells_digest
from server_app.federation import Federation
from server_app.run_folder import RunFolder

_OF_LABELS = ("subtypes", "dirichlet")  # splits that are made from labels


def simulation_of(federation: Federation, config: Config) -> Simulation:
    """Give the labs whose cells this process may read; none where labs are real."""
    if federation.simulated:
        return simulated_labs(config.data, config.split, config.run.seed)
    return Simulation({}, {}, {}, None, "")


def hold_cells(federation: Federation, config: Config, folder: RunFolder) -> None:
    """Hold the cells of simulated labs against those the run began with, wherever the set lies now.

    Real labs, of which none is kept, may come back with other cells in every phase, so also after
    a stop.

    Raises
    ------
    ConfigError
        If a resumed run would go on with other cells, or with simulated labs for real ones.
    """
    labs = simulation_of(federation, config).labs
    now = {lab: cells_digest(cells) for lab, cells in labs.items()}
    before = folder.read_cells(config.fingerprint())
    if before is None:
        folder.write_cells(now, config.fingerprint())
    elif bool(now) != bool(before):
        raise ConfigError(
            "option resume: the run was of real labs, and these are simulated; resume it on its "
            "server: flwr run . fedsc --run-config 'resume=\"/server/runs/NAME\"'"
            if now
            else "option resume: the run was a simulation, and these labs are real"
        )
    elif now != before:
        other = sorted(lab for lab in now.keys() | before.keys() if now.get(lab) != before.get(lab))
        raise ConfigError(
            f"option dataset = '{config.data.dataset}': {', '.join(other)} would have other cells "
            "than when the run was started; resume with the set as it was, or start a new run"
        )


def refuse_integration(federation: Federation, config: Config) -> None:
    """Refuse to integrate simulated labs that do not differ by technique.

    Of real labs another may join, and what batches one has it tells nobody.

    Raises
    ------
    ConfigError
        If one set was split by its labels, or at random; if Harmony is asked for where all cells
        are of one lab and one batch.
    """
    if config.analysis.integrate == "none":
        return
    simulation = simulation_of(federation, config)
    refuse_integration_of(config, simulation.scheme)
    batches = sum(
        len(cells.batches(simulation.batch_keys.get(lab) or config.analysis.batch_key)[1]) or 1
        for lab, cells in simulation.labs.items()
        if lab in federation.labs
    )
    if config.analysis.integrate == "harmony" and batches == 1:
        raise ConfigError(f"integrate = 'harmony': {ONE_BATCH}, or leave integrate out")


def refuse_integration_of(config: Config, scheme: str) -> None:
    """Refuse to integrate labs of a split that makes them alike, or unlike by cell type.

    Raises
    ------
    ConfigError
        If one set is split by its labels, or at random.
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
    left = simulation_of(federation, config).left_out
    if left is None or left.labels is None:
        return []
    types, counts = np.unique(left.labels, return_counts=True)
    named = ", ".join(f"{name} ({n})" for name, n in zip(types, counts, strict=True))
    return [
        f"cover = drop: {len(left.cells)} cells of {len(types)} types are in no lab: {named}; only "
        "the pooled scores count them; cover = all deals them too"
    ]


def unshared_types(federation: Federation, config: Config) -> list[str]:
    """Say so where labs that were not made from labels have no name of a cell type in common."""
    named = [set(about.types) for about in federation.labs.values() if about.types]
    scheme = simulation_of(federation, config).scheme
    if len(named) < 2 or scheme in _OF_LABELS or len(set().union(*named)) < sum(map(len, named)):
        return []
    return [
        f"no two of the {len(named)} annotated labs have a name of a cell type in common: they may "
        "use different names for the same types, and then ARI, NMI and suggested types say "
        "little; give a type the same name in all labs"
    ]


def leaks(federation: Federation, config: Config) -> list[str]:
    """Say so where per-lab statistics hand the labels of a label-made split to the clustering."""
    scheme = simulation_of(federation, config).scheme
    per_lab = [
        name
        for name, used in {
            "scale = 'lab'": config.data.scale == "lab",
            "local-norm": config.method.local_norm,
        }.items()
        if used
    ]
    if not (scheme in _OF_LABELS and per_lab):
        return []
    return [
        f"{' and '.join(per_lab)} on a split made from labels ({scheme}): a lab is a "
        "set of labels here, so per-lab statistics leak them and the scores mean nothing; use "
        "partition = 'column' or 'iid'"
    ]
