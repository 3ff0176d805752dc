"""Cells of one lab, once each belongs to a cluster of the pool."""

from dataclasses import dataclass

import numpy as np

from fedsc.data.aligned import Aligned


@dataclass(frozen=True)
class Clustered:
    """What a lab keeps to be asked what its clusters are.

    Attributes
    ----------
    cells
        Their expression in all genes of the vocabulary.
    clusters
        Of every cell, int (cells,), from 0; the same numbers mean the same clusters in every lab.
    labels
        Annotated type of every cell, str (cells,), ``""`` where there is none; ``None`` when none
        are known.
    """

    cells: Aligned
    clusters: np.ndarray
    labels: np.ndarray | None
