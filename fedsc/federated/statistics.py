"""What the labs tell about their expression: library sizes, gene moments; all of it sums.

The functions that take a lab answer a question; those that take ``ask`` put it and make a
result of the total. Cells without counts take no part. Under ``genes = "union"`` a lab that did
not measure a gene takes no part in that gene.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.aligned import Aligned
from fedsc.data.preprocess import centred_sums, log_normalise, mean_variance, normalise
from fedsc.errors import DataError
from fedsc.federated.query import Ask, Question, Sums, add

VIEWS = ("counts", "linear", "log")
"""Values a moment can be of: as stored, scaled to the target sum, and log1p of the latter."""

_EDGES = 2048
_INFINITY = int(np.float64(np.inf).view(np.int64))


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every gene over the pool.

    Attributes
    ----------
    n
        Cells that measured the gene, int64 (V,).
    detected
        Cells in which it is above zero, int64 (V,).
    mean, variance
        By view, float64 (V,); variance with n − 1 in the denominator, 0 for a single cell.
    """

    n: np.ndarray
    detected: np.ndarray
    mean: dict[str, np.ndarray]
    variance: dict[str, np.ndarray]


def library_size_counts(lab: Aligned, question: Question) -> Sums:
    """Count the lab's cells by library size.

    ``question.arrays`` holds ascending int64 edges under any names. Edges are the bit patterns
    of doubles: read as integers, non-negative doubles keep their order.
    """
    patterns = np.sort(lab.sizes[lab.sizes > 0].view(np.int64))
    return {
        name: np.diff(np.searchsorted(patterns, edges)) for name, edges in question.arrays.items()
    }


def median_library_size(ask: Ask) -> float:
    """Find the exact median library size of the pool's cells, as ``np.median`` over them.

    A median is no sum, a histogram is. The two middle order statistics are searched for in the
    bit patterns of float64: each question splits the interval of each into 2048, so that six
    questions leave one number of 2⁶³.

    Raises
    ------
    DataError
        If no lab has a cell with counts.
    """
    intervals = {"lower": (1, _INFINITY), "upper": (1, _INFINITY)}
    ranks: dict[str, int] | None = None
    while any(high - low > 1 for low, high in intervals.values()):
        edges = {name: _split(*interval) for name, interval in intervals.items()}
        histograms = ask(Question("library-sizes", edges))
        if ranks is None:
            n_cells = int(histograms["lower"].sum())
            if n_cells == 0:
                raise DataError("no lab has a cell with counts in the shared genes")
            ranks = {"lower": (n_cells - 1) // 2, "upper": n_cells // 2}
        for name, histogram in histograms.items():
            up_to = np.cumsum(histogram)
            bin_ = int(np.searchsorted(up_to, ranks[name], side="right"))
            ranks[name] -= int(up_to[bin_] - histogram[bin_])
            intervals[name] = (int(edges[name][bin_]), int(edges[name][bin_ + 1]))
    middle = np.array([low for low, _ in intervals.values()], dtype=np.int64)
    return float(np.mean(middle.view(np.float64)))


def gene_moments(lab: Aligned, question: Question) -> Sums:
    """Sum x − c and (x − c)² of every gene over the lab's cells, for each view asked for.

    ``question.arrays`` holds ``target_sum`` (1,) and, under the name of each view wanted, its
    centres c (V,).
    """
    target_sum = float(question.arrays["target_sum"][0])
    centres = {view: question.arrays[view] for view in VIEWS if view in question.arrays}
    total = _count(csr_matrix((0, lab.n_genes)), 0)
    for view in centres:
        total[f"{view}-sum"] = total[f"{view}-square"] = np.zeros(lab.n_genes)
    for block, sizes in _blocks_with_sizes(lab):
        n_cells = int((sizes > 0).sum())
        sums = _count(block, n_cells)
        for view, centre in centres.items():
            values = _view(lab, block, sizes, target_sum, view)
            sums[f"{view}-sum"], sums[f"{view}-square"] = centred_sums(values, centre, n_cells)
        total = add([total, sums])
    return _of_measured(lab, total)


def learn_moments(ask: Ask, views: tuple[str, ...], n_genes: int, target_sum: float) -> Moments:
    """Find every gene's mean and variance over the pool, in two questions.

    The second sums about the mean that the first found, so that means far above the standard
    deviation cost no digits.

    Parameters
    ----------
    ask
        Answers ``"gene-moments"`` by :func:`gene_moments`.
    views
        Of :data:`VIEWS`.
    n_genes
        Length of the vocabulary V.
    target_sum
        Library size cells are scaled to; 0 = their values are log-normalised already.
    """
    target = np.array([target_sum])
    centre = {view: np.zeros(n_genes) for view in views}
    sums = ask(Question("gene-moments", {"target_sum": target, **centre}))
    mean = {view: _moments_of(sums, view, centre[view])[0] for view in views}
    sums = ask(Question("gene-moments", {"target_sum": target, **mean}))
    variance = {view: _moments_of(sums, view, mean[view])[1] for view in views}
    return Moments(sums["cells"], sums["detected"], mean, variance)


def clipped_squares(lab: Aligned, question: Question) -> Sums:
    """Sum (min(x, clip) − mean)² of every gene's counts over the lab's cells.

    ``question.arrays`` holds ``mean`` and ``clip``, float64 (V,), ``clip >= 0``.
    """
    mean, clip = question.arrays["mean"], question.arrays["clip"]
    total: Sums = {"square": np.zeros(lab.n_genes)}
    for block, sizes in _blocks_with_sizes(lab):
        clipped = np.minimum(block.data, clip[block.indices])
        values = csr_matrix((clipped, block.indices, block.indptr), shape=block.shape)
        total = add([total, {"square": centred_sums(values, mean, int((sizes > 0).sum()))[1]}])
    return _of_measured(lab, total)


def _split(low: int, high: int) -> np.ndarray:
    """Cut [low, high) into at most 2048 intervals of whole numbers."""
    parts = min(_EDGES, high - low)
    return np.array([low + (high - low) * i // parts for i in range(parts + 1)], dtype=np.int64)


def _blocks_with_sizes(lab: Aligned) -> Iterator[tuple[csr_matrix, np.ndarray]]:
    start = 0
    for block in lab.blocks():
        yield block, lab.sizes[start : start + block.shape[0]]
        start += block.shape[0]


def _view(
    lab: Aligned, block: csr_matrix, sizes: np.ndarray, target_sum: float, view: str
) -> csr_matrix:
    if lab.kind == "lognorm" and view == "linear":
        linear = np.expm1(block.data.astype(np.float64))
        return csr_matrix((linear, block.indices, block.indptr), shape=block.shape)
    if lab.kind == "lognorm" or view == "counts":
        return block
    scale = log_normalise if view == "log" else normalise
    return scale(block, target_sum, sizes)


def _moments_of(sums: Sums, view: str, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mean_variance(centre, sums[f"{view}-sum"], sums[f"{view}-square"], sums["cells"])


def _count(block: csr_matrix, n_cells: int) -> Sums:
    width = block.shape[1]
    return {
        "cells": np.full(width, n_cells, dtype=np.int64),
        "detected": np.bincount(block.indices, minlength=width).astype(np.int64),
    }


def _of_measured(lab: Aligned, sums: Mapping[str, np.ndarray]) -> Sums:
    return {name: np.where(lab.measured, array, 0) for name, array in sums.items()}
