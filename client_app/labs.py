"""The labs a node hosts.

In a deployment a node is one lab: ``--node-config 'lab="A" data="/abs/a.h5ad"'``. In a simulation
the n nodes share the K labs of the partition, node i hosting labs i, i + n, …, so K does not
depend on how many nodes there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedsc.config import Config
from fedsc.data.aligned import Aligned, align
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix, Preprocessing, transform
from fedsc.errors import ConfigError
from partitioning.simulation import simulated_labs

_SAFE_NAME = re.compile(r"[\w.-]{1,100}")


@dataclass(eq=False)
class Lab:
    """One lab as its node sees it.

    Attributes
    ----------
    name
        Unique in the federation.
    expression
        Its cells.
    siblings
        How many labs the simulation has that this one is a part of; 0 for a real lab. The cells of
        a simulated lab may be read by the server's own process too.
    state
        Folder of this lab's private state, or ``None`` for a simulated lab, whose state lies in
        the run folder.
    """

    name: str
    expression: Expression
    siblings: int
    state: Path | None
    _aligned: tuple[bytes, Aligned] | None = field(default=None, repr=False)
    _cells: tuple[bytes, CellMatrix] | None = field(default=None, repr=False)

    def aligned(self, vocabulary: np.ndarray) -> Aligned:
        """Put the cells into the columns of a vocabulary; kept until another one comes."""
        key = "\n".join(vocabulary).encode()
        if self._aligned is None or self._aligned[0] != key:
            self._aligned = key, align(self.expression, vocabulary)
        return self._aligned[1]

    def cells(self, preprocessing: Preprocessing, config: Config) -> CellMatrix:
        """Prepare the cells for the encoder; kept until another preprocessing comes."""
        names = "\n".join(preprocessing.genes).encode()
        key = names + preprocessing.mean.tobytes() + preprocessing.std.tobytes()
        if self._cells is None or self._cells[0] != key:
            cells = transform(self.expression, preprocessing, scale=config.scale)
            self._cells = key, cells
        return self._cells[1]

    def folder(self, run: str, run_folder: str) -> Path:
        """Give the folder of this lab's private state in one run.

        A real lab takes no path from the server, only the run's name.

        Raises
        ------
        ConfigError
            If the run's name could lead out of the lab's folder.
        """
        if not _SAFE_NAME.fullmatch(run) or run.startswith("."):
            raise ConfigError(f"run name {run!r}: should be letters, digits, '.', '_' and '-'")
        return Path(run_folder) / "labs" / self.name if self.state is None else self.state / run


def hosted_labs(node_config: Mapping[str, Any], config: Config) -> list[Lab]:
    """Load the labs of a node, sorted by name; loaded once per process.

    Raises
    ------
    ConfigError
        If the node is neither a lab with a file nor a part of a simulation.
    DataError
        If the data cannot be read or split.
    """
    if "data" in node_config:
        name, path = str(node_config.get("lab", "")), str(node_config["data"])
        if not _SAFE_NAME.fullmatch(name):
            raise ConfigError(
                f"node config lab = {name!r}: should be letters, digits, '.', '_', '-'"
            )
        state = Path(str(node_config.get("state", Path(path).parent / "fedsc-state")))
        return [_lab_of_file(name, path, state, config)]
    if "partition-id" not in node_config:
        raise ConfigError(
            'this node has no data: start it with --node-config \'lab="NAME" data="/path.h5ad"\''
        )
    node, nodes = int(node_config["partition-id"]), int(node_config["num-partitions"])
    return _simulated(config)[node::nodes]


@lru_cache(maxsize=1)
def _lab_of_file(name: str, path: str, state: Path, config: Config) -> Lab:
    from fedsc.data.io import read

    cells = read(path, layer=config.layer, label_key=config.label_key)
    return Lab(name, cells, siblings=0, state=state)


@lru_cache(maxsize=1)
def _simulated(config: Config) -> list[Lab]:
    labs = simulated_labs(config).labs
    return [
        Lab(name, cells, siblings=len(labs), state=None) for name, cells in sorted(labs.items())
    ]
