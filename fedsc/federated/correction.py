"""How Harmony moves a lab's cells: what it keeps for that, and how a later file is moved alike.

:mod:`fedsc.federated.harmony` says what all this is for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedsc.data.groups import refuse_many
from fedsc.errors import DataError
from fedsc.federated.micro import unit

SIGMA = 0.1  # width of the soft clusters
_ROWS = 2048  # cells compared with the centres at a time


@dataclass(frozen=True)
class BatchedCells:
    """A lab's cells before integration.

    Attributes
    ----------
    x
        Embedding, float (cells, d).
    batches
        Batch of every cell, int (cells,), from 0 to B − 1 with no gap; all 0 where the lab itself
        is the batch. Codes mean nothing outside the lab.
    """

    x: np.ndarray
    batches: np.ndarray

    def __post_init__(self) -> None:
        if len(self.batches) != len(self.x) or self.batches.min(initial=0) < 0:
            raise DataError("every cell needs one batch, counted from 0")
        refuse_many(self.batches)

    @property
    def batch_sizes(self) -> np.ndarray:
        """Cells of each batch, int64 (B,)."""
        return np.bincount(self.batches).astype(np.int64)


@dataclass(frozen=True)
class Correction:
    """How a lab moves its cells, round by round; it never leaves the lab.

    Attributes
    ----------
    centres
        Of the clusters, on the unit sphere, float64 (rounds, K, d).
    penalty
        Added to the log membership of each batch's cells, float64 (rounds, B, K).
    offsets
        β_b, what is taken from a cell that belongs to a cluster wholly, float64
        (rounds, B, K, d).
    """

    centres: np.ndarray
    penalty: np.ndarray
    offsets: np.ndarray

    def followed_by(
        self, centres: np.ndarray, penalty: np.ndarray, offsets: np.ndarray
    ) -> "Correction":
        """Add a round."""
        return Correction(
            np.concatenate([self.centres, centres[None]]),
            np.concatenate([self.penalty, penalty[None]]),
            np.concatenate([self.offsets, offsets[None]]),
        )


def correct(cells: BatchedCells, correction: Correction) -> np.ndarray:
    """Correct cells as their lab was corrected: for a later file of the same lab.

    Cells of the file it was found on get the embedding they have in :class:`HarmonyState`.

    Parameters
    ----------
    cells
        Of batches the lab had, by the same codes.
    correction
        What the lab kept.

    Returns
    -------
    np.ndarray
        Of the embedding's type, (cells, d).

    Raises
    ------
    DataError
        If a batch is none the lab had, or the embedding has other dimensions.
    """
    known, dimensions = correction.offsets.shape[1], correction.offsets.shape[3]
    if len(cells.batch_sizes) > known or cells.x.shape[1] != dimensions:
        raise DataError(
            f"the lab's correction is for {known} batches of {dimensions} dimensions, the cells "
            f"have {len(cells.batch_sizes)} and {cells.x.shape[1]}"
        )
    before = cells.x
    for centres, penalty, offsets in zip(
        correction.centres, correction.penalty, correction.offsets, strict=True
    ):
        after = np.empty_like(before)
        for batch, rows, _, membership in members(cells, before, centres, penalty):
            after[rows] = cells.x[rows] - membership @ offsets[batch]
        before = after
    return before


def members(
    cells: BatchedCells, x: np.ndarray, centres: np.ndarray, penalty: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Share cells among clusters, some cells of one batch at a time.

    Membership is exp(−‖z − y‖²/σ + a_b), rows sum to 1; ‖z − y‖² = 2 − 2·zᵀy for unit vectors.

    Yields
    ------
    tuple
        Batch; rows, int64 (n,); z = x / ‖x‖, float64 (n, d); membership, float64 (n, K).
    """
    for batch in range(len(penalty)):
        of_batch = np.flatnonzero(cells.batches == batch)
        for start in range(0, len(of_batch), _ROWS):
            rows = of_batch[start : start + _ROWS]
            z = unit(x[rows].astype(np.float64))
            membership = (2 / SIGMA) * (z @ centres.T) + penalty[batch]
            membership -= membership.max(axis=1, keepdims=True)
            np.exp(membership, out=membership)
            membership /= membership.sum(axis=1, keepdims=True)
            yield batch, rows, z, membership
