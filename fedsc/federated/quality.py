"""Quality control with the same limits in all labs, from sums.

A limit is a number, or lies so many median absolute deviations (MAD) from the median of the pool's
cells (Germain et al. 2020, "pipeComp"; Heumos et al. 2023, "Best practices for single-cell analysis
across modalities"). Medians and MADs are those of the pooled cells, exactly.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsc.data.aligned import Aligned
from fedsc.data.quality import Thresholds, cell_quality, failing, mitochondrial, passing
from fedsc.errors import ConfigError, DataError
from fedsc.federated.bounds import Agreement, Asked, Check, adds_up, at_least, at_most, finding
from fedsc.federated.medians import (
    agree_on_histograms,
    check_histograms,
    histograms,
    learn_medians,
)
from fedsc.federated.query import Ask, Question, Sums
from fedsc.options import kebab

DEVIATIONS = "quality-deviations"
PASSING = "quality-passing"

MADS: Mapping[str, float] = {"min_genes": 5.0, "min_counts": 5.0, "max_mito": 3.0}
"""How many MADs from the median each limit on cells lies (Heumos et al. 2023)."""

Limit = float | Literal["mad"]


@dataclass(frozen=True)
class Kept:
    """What quality control leaves of the pool.

    Attributes
    ----------
    cells, kept
        Cells of the pool before and after.
    lost
        Cells that fail a limit, by its name; a cell may fail several.
    genes
        Which genes of the vocabulary are kept, bool (V,).
    """

    cells: int
    kept: int
    lost: dict[str, int]
    genes: np.ndarray


def count_deviations(lab: Aligned, question: Question) -> Sums:
    """Count the lab's cells by how far they are from a centre, for medians and MADs.

    Cells without counts take no part.

    Parameters
    ----------
    lab
        Raw counts.
    question
        Holds ``mitochondrial`` bool (V,), ``centres`` float64 (3,) in the order of :data:`MADS`,
        and edges as :func:`histograms` wants them under the names of some limits. What they limit
        is counted: log1p of the genes, log1p of the counts, the mitochondrial share.
    """
    quality = cell_quality(lab, question.arrays["mitochondrial"])
    some = quality.counts > 0
    values = (
        np.log1p(quality.genes[some]),
        np.log1p(quality.counts[some]),
        quality.mito[~np.isnan(quality.mito)],
    )
    centres = question.arrays["centres"]
    deviations = (np.abs(x - centre) for x, centre in zip(values, centres, strict=True))
    return histograms(dict(zip(MADS, deviations, strict=True)), question)


def count_passing(lab: Aligned, question: Question) -> Sums:
    """Count what thresholds leave of the lab.

    Parameters
    ----------
    lab
        Raw counts.
    question
        Holds ``mitochondrial`` bool (V,) and the limits of :class:`Thresholds` on cells, float64
        (1,) each.

    Returns
    -------
    Sums
        ``cells``, ``kept`` and, by limit, the cells that fail it, int64 (1,); ``detected``, the
        kept cells in which each gene is above zero, int64 (V,).
    """
    quality = cell_quality(lab, question.arrays["mitochondrial"])
    min_genes, min_counts, max_mito = (float(question.arrays[name][0]) for name in MADS)
    thresholds = Thresholds(min_genes, min_counts, max_mito)
    failed = failing(quality, thresholds)
    kept = passing(failed)
    detected, start = np.zeros(lab.n_genes, dtype=np.int64), 0
    for block in lab.blocks():
        rows = kept[start : start + block.shape[0]]
        start += block.shape[0]
        detected += np.bincount(block[rows].indices, minlength=lab.n_genes)
    counts = {"cells": len(kept), "kept": kept.sum()}
    counts |= {name: cells.sum() for name, cells in failed.items()}
    return {
        **{name: np.array([count], dtype=np.int64) for name, count in counts.items()},
        "detected": detected,
    }


ANSWERS: dict[str, Callable[[Aligned, Question], Sums]] = {
    DEVIATIONS: count_deviations,
    PASSING: count_passing,
}


def learn_thresholds(
    ask: Ask,
    vocabulary: Sequence[str] | np.ndarray,
    *,
    min_genes: Limit = 0.0,
    min_counts: Limit = 0.0,
    max_mito: Limit = 1.0,
    min_cells_per_gene: int = 0,
) -> Thresholds:
    """Turn limits into numbers: eight questions if one is to come from the pool, else none.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    vocabulary
        The genes the labs agreed on, (V,).
    min_genes, min_counts, max_mito, min_cells_per_gene
        As in :class:`Thresholds`; ``"mad"`` = median − 5 MAD of the pool's log1p(genes) and
        log1p(counts), median + 3 MAD of the mitochondrial share.

    Raises
    ------
    ConfigError
        If the mitochondrial share is limited and the vocabulary has no mitochondrial gene.
    DataError
        If a lab's values are log-normalised, or a limit is to come from a pool in which no cell
        tells it or most cells are alike.
    """
    mito = mitochondrial(vocabulary)
    if max_mito != 1.0 and not mito.any():
        raise ConfigError(
            f"max-mito = {max_mito}: none of the {len(mito)} genes the labs agreed on is named "
            "MT-…, so no cell's mitochondrial share is known; leave max-mito out"
        )
    limits: dict[str, Limit] = dict(zip(MADS, (min_genes, min_counts, max_mito), strict=True))
    by_mad = [name for name, limit in limits.items() if limit == "mad"]
    if by_mad:
        limits |= _limits_by_mad(ask, mito, by_mad)
    genes, counts, mito_share = map(float, limits.values())
    return Thresholds(genes, counts, mito_share, min_cells_per_gene)


def learn_kept(ask: Ask, vocabulary: Sequence[str] | np.ndarray, thresholds: Thresholds) -> Kept:
    """Count what thresholds leave of the pool, in one question.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`.
    vocabulary
        The genes the labs agreed on, (V,).
    thresholds
        The same for all labs.

    Raises
    ------
    DataError
        If a lab's values are log-normalised, or no cell or no gene is left.
    """
    limits = {name: np.array([getattr(thresholds, name)]) for name in MADS}
    sums = ask(Question(PASSING, {"mitochondrial": mitochondrial(vocabulary), **limits}))
    cells, kept = int(sums["cells"][0]), int(sums["kept"][0])
    lost = {name: int(sums[name][0]) for name in MADS}
    genes = sums["detected"] >= thresholds.min_cells_per_gene
    if not kept or not genes.any():
        failed = ", ".join(f"{count} by {kebab(name)}" for name, count in lost.items())
        raise DataError(
            f"quality control leaves {kept} of {cells} cells (lost: {failed}) and {genes.sum()} of "
            f"{len(genes)} genes; set limits that leave some"
        )
    return Kept(cells, kept, lost, genes)


def _limits_by_mad(ask: Ask, mito: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    medians = _median_deviations(ask, mito, dict.fromkeys(names, 0.0))
    for name, median in medians.items():
        if math.isnan(median):
            raise DataError(f"{kebab(name)} = 'mad': no lab has a cell that tells it")
    mads = _median_deviations(ask, mito, medians)
    limits = {}
    for name, median in medians.items():
        if mads[name] == 0:
            raise DataError(
                f"{kebab(name)} = 'mad': half of the pool's cells or more do not differ in it, "
                "so that its MAD is 0 and all others would be left out; set a number"
            )
        distance = MADS[name] * mads[name]
        limits[name] = median + distance
        if name != "max_mito":
            # Rounded, or the last bits of a logarithm would decide about whole numbers.
            limits[name] = max(round(math.expm1(median - distance), 6), 0.0)
    return limits


def _median_deviations(
    ask: Ask, mito: np.ndarray, centres: Mapping[str, float]
) -> dict[str, float]:
    """Find the pool's median of |value − centre|, by limit as the centres are."""
    about = np.array([centres.get(name, 0.0) for name in MADS])
    question = Question(DEVIATIONS, {"mitochondrial": mito, "centres": about})
    return learn_medians(ask, question, tuple(centres))


def check_passing(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`count_passing`."""
    kept, failed = sums["kept"], [sums[name] for name in MADS]
    return finding(
        adds_up("cells", sums["cells"], asked.n_cells),
        at_most("kept", kept, asked.n_cells - np.max(failed)),
        at_least("kept", kept, asked.n_cells - np.sum(failed)),
        at_most("detected", sums["detected"], kept),
    )


CHECKS: dict[str, Check] = {DEVIATIONS: check_histograms, PASSING: check_passing}

AGREEMENTS: dict[str, Agreement] = {DEVIATIONS: agree_on_histograms}
