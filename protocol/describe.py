"""Describe: what a lab tells of itself before anything else."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from flwr.app import ConfigRecord
from pydantic import BaseModel, ConfigDict, Field

from fedsc.data.expression import Kind, LabCells
from fedsc.names import is_name
from fedsc.options import MOST_LABS
from protocol import records
from protocol.checks import MOST_CELLS, MOST_NAMES, BadReply, Cells, read_names, read_record

_LONGEST_SIGNATURE = 128  # bytes; of a P-384 key at most 104


@dataclass(frozen=True)
class About:
    """What a lab told of itself.

    Attributes
    ----------
    node
        Flower node that hosts it.
    cells
        Number of its cells.
    genes
        Names of the genes it measured.
    kind
        ``"counts"`` or ``"lognorm"``.
    types
        Names of its cell types; empty when it has no labels.
    siblings
        How many labs the simulation has that it is a part of; 0 for a real lab.
    signature
        By the lab's key, over run, node and name (:mod:`protocol.identity`); empty without a key.
    left_out
        Cells that quality control left out and that do not count in ``cells``.
    """

    node: int
    cells: int
    genes: np.ndarray
    kind: Kind
    types: tuple[str, ...]
    siblings: int
    signature: bytes = b""
    left_out: int = 0

    @property
    def simulated(self) -> bool:
        """Whether the server's process may read its cells too."""
        return self.siblings > 0

    def same_cells(self, other: "About") -> bool:
        """Say whether two descriptions are of the same cells, as far as they tell."""
        if self is other:  # as a rule: to compare all names takes half a millisecond
            return True
        return np.array_equal(self.genes, other.genes) and all(
            getattr(self, name) == getattr(other, name)
            for name in ("cells", "kind", "types", "left_out")
        )


class _AboutRecord(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Cells
    kind: Kind
    genes: Annotated[bytes, Field(min_length=1, max_length=MOST_NAMES * 40)]
    types: Annotated[bytes, Field(max_length=MOST_NAMES * 4)] = b""  # no labels
    siblings: Annotated[int, Field(ge=0, le=MOST_LABS)]
    signature: Annotated[bytes, Field(max_length=_LONGEST_SIGNATURE)] = b""
    left_out: Annotated[int, Field(ge=0, le=MOST_CELLS, alias="left-out")] = 0


def pack_about(
    cells: LabCells, siblings: int, signature: bytes = b"", left_out: int = 0
) -> ConfigRecord:
    """Tell number of cells, genes, kind of values and names of cell types of a lab, signed.

    ``left_out`` is how many more it has that quality control leaves out.
    """
    record = ConfigRecord(
        {
            "cells": len(cells.cells),
            "kind": cells.kind,
            "genes": records.pack_names(cells.genes),
            "siblings": siblings,
            "signature": signature,
            "left-out": left_out,
        }
    )
    if cells.labels is not None and (types := sorted(set(cells.labels) - {""})):
        record["types"] = records.pack_names(types)
    return record


def read_about(lab: str, node: int, record: object) -> About:
    """Take what a lab tells of itself out of a reply.

    Raises
    ------
    BadReply
        If it is not a description of a lab.
    """
    if not is_name(lab):
        raise BadReply(f"a lab calls itself {lab[:40]!r}: should be letters, digits, '.', '_', '-'")
    told = read_record(_AboutRecord, record, ConfigRecord, f"the description of lab {lab}")
    genes = read_names(told.genes, f"the genes of lab {lab}")
    types = tuple(read_names(told.types, f"the cell types of lab {lab}"))
    return About(
        node,
        told.cells,
        genes,
        told.kind,
        types,
        told.siblings,
        told.signature,
        told.left_out,
    )
