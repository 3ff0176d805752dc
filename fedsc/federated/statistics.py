"""What the labs tell about their expression: library sizes, gene moments; all of it sums.

The functions that take a lab answer a question; those that take ``ask`` put it and make a
result of the total. Cells without counts take no part. Under ``genes = "union"`` a lab that did
not measure a gene takes no part in that gene.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.aligned import Aligned
from fedsc.data.columns import centred_sums, count_columns, mean_variance
from fedsc.data.preprocess import log_normalise, normalise
from fedsc.errors import DataError
from fedsc.federated.bounds import Asked, at_least, at_most, finding, moments, same
from fedsc.federated.medians import histograms, learn_medians
from fedsc.federated.query import Ask, Question, Sums, add

VIEWS = ("counts", "linear", "log")
"""Values a moment can be of: as stored, scaled to the target sum, and log1p of the latter."""


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
    """Count the lab's cells by library size; ``question`` holds the edges ``size``."""
    return histograms({"size": lab.sizes[lab.sizes > 0]}, question)


def median_library_size(ask: Ask) -> float:
    """Find the exact median library size of the pool's cells, as ``np.median`` over them.

    Raises
    ------
    DataError
        If no lab has a cell with counts.
    """
    median = learn_medians(ask, Question("library-sizes"), ("size",))["size"]
    if np.isnan(median):
        raise DataError("no lab has a cell with counts in the shared genes")
    return median


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
    for block, sizes in lab.blocks_with_sizes():
        n_cells = int((sizes > 0).sum())
        sums = _count(block, n_cells)
        stored = sums["detected"]
        for view, values in _views(lab, block, sizes, target_sum, centres):
            sums[f"{view}-sum"], sums[f"{view}-square"] = centred_sums(
                values, centres[view], n_cells, stored
            )
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
    for block, sizes in lab.blocks_with_sizes():
        clipped = np.minimum(block.data, clip[block.indices])
        values = csr_matrix((clipped, block.indices, block.indptr), shape=block.shape)
        total = add([total, {"square": centred_sums(values, mean, int((sizes > 0).sum()))[1]}])
    return _of_measured(lab, total)


def as_view(
    lab: Aligned, block: csr_matrix, sizes: np.ndarray, target_sum: float, view: str
) -> csr_matrix:
    """Give the values of some of the lab's cells in one of :data:`VIEWS`, zeros still zeros."""
    if lab.kind == "lognorm" and view == "linear":
        linear = np.expm1(block.data.astype(np.float64))
        return csr_matrix((linear, block.indices, block.indptr), shape=block.shape)
    if lab.kind == "lognorm" or view == "counts":
        return block
    scale = log_normalise if view == "log" else normalise
    return scale(block, target_sum, sizes)


def _views(
    lab: Aligned, block: csr_matrix, sizes: np.ndarray, target_sum: float, views: Iterable[str]
) -> Iterator[tuple[str, csr_matrix]]:
    """Give the values in several views; logarithms are taken of those that are scaled already."""
    linear = None
    for view in views:
        if view == "log" and linear is not None and lab.kind == "counts":
            logarithms = np.log1p(linear.data)
            yield view, csr_matrix((logarithms, linear.indices, linear.indptr), shape=linear.shape)
            continue
        values = as_view(lab, block, sizes, target_sum, view)
        linear = values if view == "linear" else linear
        yield view, values


def _moments_of(sums: Sums, view: str, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mean_variance(centre, sums[f"{view}-sum"], sums[f"{view}-square"], sums["cells"])


def _count(block: csr_matrix, n_cells: int) -> Sums:
    width = block.shape[1]
    return {
        "cells": np.full(width, n_cells, dtype=np.int64),
        "detected": count_columns(block),
    }


def _of_measured(lab: Aligned, sums: Mapping[str, np.ndarray]) -> Sums:
    return {name: np.where(lab.measured, array, 0) for name, array in sums.items()}


_FLOAT32 = 1 + 1e-6
_MOST_COUNTS = 1e9  # of one gene in one cell
MOST_LOG = 50.0  # of values that are log-normalised when they come: the cell holds 5e21 counts


def check_moments(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`gene_moments`."""
    cells, arrays = sums["cells"], asked.question.arrays
    target, most = float(arrays["target_sum"][0]), cells.max(initial=0)
    if target == 0:  # values are log-normalised when they come
        largest = {"counts": MOST_LOG, "log": MOST_LOG, "linear": float(np.expm1(MOST_LOG))}
    else:
        # One gene has at most all of a cell's counts.
        largest = {"counts": _MOST_COUNTS, "log": float(np.log1p(target)), "linear": target}
    return finding(
        "" if np.isin(cells, (0, most)).all() else "genes are measured in different cells",
        at_most("detected", sums["detected"], cells),
        *(
            moments(
                view,
                cells,
                sums[f"{view}-sum"],
                sums[f"{view}-square"],
                -arrays[view],
                largest[view] * _FLOAT32 - arrays[view],
                largest[view],
            )
            for view in VIEWS
            if view in arrays
        ),
    )


def agree_on_genes(sums: Sums, asked: Asked, before: Sums, asked_before: Asked) -> str:
    """Say in what moments contradict those about other centres: cells and detected cells."""
    return finding(*(same(name, sums[name], before[name]) for name in ("cells", "detected")))


def check_squares(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`clipped_squares`."""
    mean, clip = asked.question.arrays["mean"], asked.question.arrays["clip"]
    farthest = np.square(np.maximum(mean, np.abs(clip - mean)))
    squares = sums["square"]
    return finding(
        at_least("square", squares, 0), at_most("square", squares, asked.n_cells * farthest)
    )
