"""Do labs mix, and should their embedding be integrated? From sums.

A technique moves all cells of a batch alike. A split by cell type, or labs with patients of
different diseases, also keep batches apart; there integration would pull different types over
one another. Sums cannot tell the two for sure: where labs share no type, nothing can. So what
:func:`decide` says is advice, with its figures, and never that integration is safe.
"""

from dataclasses import dataclass

import numpy as np

from fedsc.federated.bounds import LARGEST, Asked, Check, adds_up, at_least, at_most, finding
from fedsc.federated.correction import BatchedCells
from fedsc.federated.kmeans import assign
from fedsc.federated.micro import unit
from fedsc.federated.query import Ask, Question, Sums

MIXING = "mixing"

WELL_MIXED = 0.9  # from this mixing index on there is nothing to gain
LEAST_ADVANTAGE = 0.4  # of the closure over the bend

ONE_BATCH = (
    "all cells are of one lab and one batch, so there is nothing to bring together; bring a second "
    "lab, or name a column of obs with batches: batch-key"
)
"""Why there is nothing to integrate."""


@dataclass(frozen=True)
class Mixing:
    """How batches lie in the clusters of the pool.

    Attributes
    ----------
    index
        H(batch | cluster) / H(batch): 0 when no cluster has cells of two batches, 1 when every
        cluster has them in the pool's proportions. Corrected for chance: few cells a cluster look
        unmixed (Miller 1955). 1 for a single batch.
    bend
        Share of the displacement of cells that is not their batch's mean displacement,
        Σ‖Δ − mean_b Δ‖² / Σ‖Δ‖²: 0 when every batch moved as a whole, and when none moved.
    batches
        Of the pool.
    """

    index: float
    bend: float
    batches: int


@dataclass(frozen=True)
class Decision:
    """Whether to integrate.

    Attributes
    ----------
    integrate
        Yes or no; before an integration, whether to try.
    reason
        In words, with the figures.
    """

    integrate: bool
    reason: str


def sum_mixing(cells: BatchedCells, corrected: np.ndarray | None, question: Question) -> Sums:
    """Answer the question :func:`learn_mixing` puts.

    Parameters
    ----------
    cells
        Of the lab, before integration.
    corrected
        Its embedding after, float (cells, d); ``None`` before there is one.
    question
        Holds ``centres``, unit vectors, float64 (K, d).

    Returns
    -------
    Sums
        ``cells`` nearest to each centre, int64 (K,); ``batches``, int64 (1,); ``entropy``,
        Σ_b n_b·log n_b over batches and Σ n_bk·log n_bk over batches and clusters, float64 (2,);
        ``displacement``, Σ‖Δ − mean_b Δ‖² and Σ‖Δ‖², float64 (2,).
    """
    centres = question.arrays["centres"]
    x = cells.x if corrected is None else corrected
    sizes = cells.batch_sizes
    table = np.zeros((len(sizes), len(centres)), dtype=np.int64)
    np.add.at(table, (cells.batches, assign(centres, unit(x))), 1)
    displacement = np.zeros(2)
    if corrected is not None:
        for batch in np.flatnonzero(sizes):
            own = cells.batches == batch
            moved = corrected[own].astype(np.float64) - cells.x[own]
            displacement += [np.square(moved - moved.mean(axis=0)).sum(), np.square(moved).sum()]
    return {
        "cells": table.sum(axis=0),
        "batches": np.array([np.count_nonzero(sizes)], dtype=np.int64),
        "entropy": np.array([_n_log_n(sizes), _n_log_n(table)]),
        "displacement": displacement,
    }


def learn_mixing(ask: Ask, centres: np.ndarray) -> Mixing:
    """Measure how batches mix, in one question.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`sum_mixing`.
    centres
        Of the clusters, unit vectors, float64 (K, d): of
        :func:`~fedsc.federated.harmony.learn_start` before integration, the last of
        :class:`~fedsc.federated.harmony.Harmony` after it.
    """
    sums = ask(Question(MIXING, {"centres": centres}))
    clusters, n_batches = sums["cells"], int(sums["batches"][0])
    n = int(clusters.sum())
    bent, moved = sums["displacement"]
    bend = float(bent / moved) if moved > 0 else 0.0
    of_batches, of_both = sums["entropy"]
    if n_batches < 2:
        return Mixing(1.0, bend, n_batches)
    batch_entropy = np.log(n) - of_batches / n
    within = (_n_log_n(clusters) - of_both) / n
    chance = (np.count_nonzero(clusters) - 1) * (n_batches - 1) / (2 * n)
    index = float(min((within + chance) / batch_entropy, 1.0))
    return Mixing(index, bend, n_batches)


def closure(before: Mixing, after: Mixing) -> float:
    """Give the share of the mixing that was missing before and is there after; 1 if none was."""
    missing = 1 - before.index
    return (after.index - before.index) / missing if missing > 0 else 1.0


def decide(before: Mixing, after: Mixing | None = None) -> Decision:
    """Advise whether to integrate, or, before there is an integrated embedding, to try.

    Techniques differ by one movement that all cells of a batch share, and after it batches mix.
    So the closure should be well above the bend.

    Parameters
    ----------
    before
        Of the embedding as it is.
    after
        Of the integrated one.
    """
    if before.batches < 2:
        return Decision(False, ONE_BATCH)
    mixed = f"mixing of labs {before.index:.2f}"
    if before.index >= WELL_MIXED:
        return Decision(False, f"{mixed}: they are mixed already (from {WELL_MIXED:g} on)")
    if after is None:
        return Decision(True, f"{mixed}: integration may help (below {WELL_MIXED:g})")
    closed = closure(before, after)
    figures = (
        f"{mixed} before and {after.index:.2f} after integration: {closed:.0%} of the gap closed, "
        f"{after.bend:.0%} of the movement not shared by the cells of a batch"
    )
    if closed - after.bend < LEAST_ADVANTAGE:
        return Decision(
            False,
            f"{figures}; the difference should be at least {LEAST_ADVANTAGE:.0%}: labs may differ "
            "in cell types, not technique",
        )
    return Decision(
        True,
        f"{figures}; so do techniques. If labs hold different cell types instead, which sums "
        "cannot exclude, types were pulled over one another: compare with integrate = none",
    )


def _n_log_n(counts: np.ndarray) -> float:
    some = counts[counts > 0].astype(np.float64)
    return float((some * np.log(some)).sum())


def check_mixing(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`sum_mixing`."""
    n, d = asked.n_cells, asked.question.arrays["centres"].shape[1]
    entropy, (bent, moved) = sums["entropy"], sums["displacement"]
    return finding(
        adds_up("cells", sums["cells"].sum(), n),
        at_least("batches", sums["batches"], 1),
        at_least("entropy", entropy, 0),
        at_most("entropy", entropy[::-1], np.array([entropy[0], n * np.log(n)])),
        at_least("displacement", bent, 0),
        at_most("displacement", bent, moved),
        at_most("displacement", moved, n * d * LARGEST**2),
    )


CHECKS: dict[str, Check] = {MIXING: check_mixing}
