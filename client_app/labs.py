"""The labs a node hosts.

In a deployment a node is one lab: ``--node-config 'lab="A" data="/abs/a.h5ad"'``, with ``state``
and ``output`` for the folders it may write to. In a simulation the n nodes share the K labs of the
partition, node i hosting labs i, i + n, …, so K does not depend on how many nodes there are.

A lab may name columns of its own: ``layer``, ``label-key``, ``batch-key``, ``symbols`` and
``make-unique`` of its node config go before those of ``labs.toml`` beside its file, and both before
the run's options. ``key`` is the path of its private key, with which it signs its name.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from client_app.cache import load_cells, preparation_key, save_cells
from fedsc.config import Config
from fedsc.data.aligned import Aligned, align
from fedsc.data.expression import LabCells, OnDisk
from fedsc.data.groups import refuse_many
from fedsc.data.labs_toml import OWN, checked, read_as, told_by_labs
from fedsc.data.preprocess import CellMatrix, Preprocessing, transform
from fedsc.data.quality import CellFilter
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.errors import ConfigError, DataError
from fedsc.files import identity
from fedsc.names import check_name
from fedsc.options import Scale

if TYPE_CHECKING:
    from fedsc.data.annotated import Origin
    from partitioning.simulation import Simulation

_CACHE = ".cache"  # of a lab's state: what can be made anew
_UNUSABLE = (  # all that a server is told of a file's faults: they quote names of cells and columns
    "the lab's file cannot be used with this label-key, layer and symbols: the lab's own log says "
    "what is wrong, and so does fedsc check there"
)


@dataclass(frozen=True)
class LabFile:
    """A real lab's file, and how it is read.

    Attributes
    ----------
    path
        File or 10x folder.
    how
        Which of its values, and under which names.
    """

    path: Path
    how: ReadAs = AS_IT_IS

    def read(self, folder: Path) -> LabCells:
        """Read and validate the cells; the values of a large file are copied into a folder.

        Raises
        ------
        DataError
            With one line per problem.
        RunError
            If the copy cannot be written.
        """
        from fedsc.data.reading.large import forget_others
        from fedsc.data.reading.read import read_or_keep

        try:
            cells = read_or_keep(self.path, lambda: folder, self.how)
        except DataError as error:
            raise DataError(str(error), _UNUSABLE) from error
        forget_others([cells])
        return cells

    def identity(self) -> str:
        """Name what prepared cells depend on: a file changed since has another identity."""
        how = replace(self.how, label_key="")  # cell types are not prepared
        return json.dumps([astuple(how), identity(self.path)])


@dataclass(eq=False)
class Lab:
    """One lab as its node sees it.

    Attributes
    ----------
    name
        Unique in the federation.
    source
        Its cells, or the file they are read from when they are wanted; a real lab has a ``state``.
    siblings
        How many labs the simulation has that this one is a part of; 0 for a real lab. The cells of
        a simulated lab may be read by the server's own process too.
    state
        Folder of this lab's private state, or ``None`` for a simulated lab, whose state lies in
        the run folder.
    output
        Folder for the copy of its file with the results; ``None`` = its state of the run.
    batch_key
        Column of ``obs`` with this lab's batches, where it has named one of its own.
    key
        File of its private key; ``None`` without one.
    cell_filter
        What tells which of its cells are kept; ``None`` = all are.
    origin
        Where the cells of a simulated lab are from.
    """

    name: str
    source: LabCells | LabFile
    siblings: int
    state: Path | None
    output: Path | None = None
    batch_key: str = ""
    key: Path | None = None
    cell_filter: CellFilter | None = None
    _filtered: "Lab | None" = field(default=None, repr=False)
    origin: "Origin | None" = None
    _aligned: tuple[bytes, Aligned] | None = field(default=None, repr=False)
    _cells: tuple[str, CellMatrix] | None = field(default=None, repr=False)

    @cached_property
    def whole(self) -> LabCells:
        """All its cells; a file is read once per process, and only if they are asked for."""
        if not isinstance(self.source, LabFile):
            return self.source
        return self.source.read((self.state or self.source.path.parent) / _CACHE)

    @cached_property
    def expression(self) -> LabCells:
        """The cells it works with: those that pass quality control."""
        return self.whole if self.cell_filter is None else self.cell_filter.passing(self.whole)

    def filtered(self, cell_filter: CellFilter | None) -> "Lab":
        """Give the lab with some of its cells; kept until another filter comes."""
        if cell_filter is None:
            return self
        if self._filtered is None or self._filtered.cell_filter != cell_filter:
            lab = replace(self, cell_filter=cell_filter, _filtered=None, _aligned=None, _cells=None)
            if "whole" in vars(self):
                vars(lab)["whole"] = self.whole  # read already
            self._filtered = lab
        return self._filtered

    def signature(self, run: int, node: int) -> bytes:
        """Sign that this node is this lab in this run; empty without a key.

        Raises
        ------
        ConfigError
            If the key cannot be read.
        """
        if self.key is None:
            return b""
        from protocol.identity import sign

        try:
            return sign(self.key.read_bytes(), run, node, self.name)
        except OSError as error:
            raise ConfigError(
                f"node config key = '{self.key}': {error.strerror}",
                "node config key: the file cannot be read",
            ) from error
        except ValueError:  # its words could quote the key
            wrong = "is no EC key in the OpenSSH format"
            raise ConfigError(
                f"node config key = '{self.key}': {wrong}", f"node config key: {wrong}"
            ) from None

    def aligned(self, vocabulary: np.ndarray) -> Aligned:
        """Put the cells into the columns of a vocabulary; kept until another one comes."""
        key = "\n".join(vocabulary).encode()
        if self._aligned is None or self._aligned[0] != key:
            self._aligned = key, align(self.expression, vocabulary)
        return self._aligned[1]

    def cells(self, preprocessing: Preprocessing, scale: Scale) -> CellMatrix:
        """Prepare the cells for the encoder; kept until another preprocessing comes.

        A real lab keeps them on its disk too: Flower starts a process for every message, and
        reading and preparing a file takes longer than training on it.
        """
        kept = None
        key = preparation_key(preprocessing, scale, self.cell_filter)
        if isinstance(self.source, LabFile) and self.state is not None:
            kept = self.state / _CACHE / "cells.safetensors"
            key += self.source.identity()
        if self._cells is None or self._cells[0] != key:
            cells = load_cells(kept, key) if kept else None
            if cells is None:
                expression = self.expression
                folder = expression.folder if isinstance(expression, OnDisk) else None
                cells = transform(expression, preprocessing, scale=scale, folder=folder)
                if kept:
                    save_cells(kept, key, cells)
            self._cells = key, cells
        return self._cells[1]

    def batches(self, key: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Number the batches, as :meth:`Expression.batches`; the lab's own column goes before.

        Raises
        ------
        DataError
            If there is no such column, a cell has no value in it, or it holds too many.
        """
        batches, names = self.expression.batches(self.batch_key or key)
        refuse_many(batches)
        return batches, names

    def folder(self, run: str, run_folder: str) -> Path:
        """Give the folder of this lab's private state in one run.

        A real lab takes no path from the server, only the run's name.

        Raises
        ------
        ConfigError
            If the run's name could lead out of the lab's folder.
        """
        check_name(run, "run name")
        return Path(run_folder) / "labs" / self.name if self.state is None else self.state / run


def is_simulated(node_config: Mapping[str, Any]) -> bool:
    """Say whether a node is a part of a simulation, whose cells the server may read too."""
    return "data" not in node_config and "partition-id" in node_config


def hosted_labs(node_config: Mapping[str, Any], config: Config) -> list[Lab]:
    """List the labs of a node, sorted by name; the same objects as long as the process lives.

    Raises
    ------
    ConfigError
        If the node is neither a lab with a file nor a part of a simulation, or what the lab says of
        its file cannot be used.
    DataError
        If a simulated set cannot be read or split.
    """
    if "data" in node_config:
        name, path = str(node_config.get("lab", "")), Path(str(node_config["data"]))
        check_name(name, "node config lab")
        state = _place(node_config, "state") or path.parent / "fedsc-state" / name
        output = _place(node_config, "output")
        of_node = {key: node_config[key] for key in OWN if key in node_config}
        own = told_by_labs(path.parent).get(name, {})
        own |= checked(of_node, "node config", "node config")
        how, batch_key = read_as(own, ReadAs.of(config.data))
        file = LabFile(path, how)
        key = Path(str(node_config["key"])) if node_config.get("key") else None
        return [_real_lab(name, file, state, output, batch_key, key)]
    if not is_simulated(node_config):
        raise ConfigError.without_data(
            'this node has no data: start it with --node-config \'lab="NAME" data="/path.h5ad"\''
        )
    node, nodes = int(node_config["partition-id"]), int(node_config["num-partitions"])
    from partitioning.simulation import simulated_labs

    simulation = simulated_labs(config.data, config.split, config.run.seed)
    return _simulated(simulation)[node::nodes]


def _place(node_config: Mapping[str, Any], name: str) -> Path | None:
    """Give a folder that the node config names; a relative one would move with the process."""
    if not (told := node_config.get(name)):
        return None
    path, wrong = Path(str(told)), "should be an absolute path"
    if not path.is_absolute():
        raise ConfigError(f"node config {name} = '{path}': {wrong}", f"node config {name}: {wrong}")
    return path


@lru_cache(maxsize=1)
def _real_lab(
    name: str, file: LabFile, state: Path, output: Path | None, batch_key: str, key: Path | None
) -> Lab:
    return Lab(name, file, 0, state, output, batch_key, key)


@lru_cache(maxsize=1)
def _simulated(simulation: "Simulation") -> list[Lab]:
    labs = simulation.labs
    return [
        Lab(
            name,
            cells,
            siblings=len(labs),
            state=None,
            batch_key=simulation.batch_keys.get(name, ""),
            origin=simulation.origins[name],
        )
        for name, cells in sorted(labs.items())
    ]


def forget_simulated() -> None:
    """Let go of the cells of simulated labs, as they were read and as they were prepared."""
    from partitioning.simulation import forget

    _simulated.cache_clear()
    forget()
