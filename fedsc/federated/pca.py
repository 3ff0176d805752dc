"""Exact principal components of cells that stay in their labs: the honest floor of every table.

Labs send n, Σx and Σ(x − μ)(x − μ)ᵀ over the chosen genes; the server diagonalises. Equal to
scikit-learn's ``PCA(svd_solver="full")`` on the pooled matrix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedsc.data.preprocess import CellMatrix
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.federated.bounds import (
    Asked,
    Check,
    adds_up,
    at_least,
    at_most,
    finding,
    within,
)
from fedsc.federated.query import Ask, Question, Sums

MEAN = "pca-mean"
SCATTER = "pca-scatter"

_ROWS = 1024  # cells made dense at a time: 16 MB in float64 at 2000 genes


@dataclass(frozen=True)
class Components:
    """A linear map from standardised genes to principal components.

    Attributes
    ----------
    mean
        Of the pool, float64 (G,).
    axes
        Orthonormal rows, the widest first, float64 (d, G). The largest loading of each, by
        absolute value, is positive.
    variances
        Of the pool along each axis, n − 1 in the denominator, float64 (d,).
    """

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray


def sum_cells(cells: CellMatrix, question: Question) -> Sums:
    """Count cells and sum them: ``n`` int64 (1,), ``sum`` float64 (G,)."""
    total = np.zeros(cells.n_genes)
    for x in _batches(cells):
        total += x.sum(axis=0)
    return {"n": np.array([cells.n_cells], dtype=np.int64), "sum": total}


def scatter(cells: CellMatrix, question: Question) -> Sums:
    """Sum (x − shift)(x − shift)ᵀ, as ``scatter`` float64 (G, G); ``question`` holds ``shift``."""
    shift = question.arrays["shift"]
    total = np.zeros((cells.n_genes, cells.n_genes))
    for x in _batches(cells):
        x -= shift
        total += x.T @ x
    return {"scatter": total}


ANSWERS: dict[str, Callable[[CellMatrix, Question], Sums]] = {MEAN: sum_cells, SCATTER: scatter}


def learn_pca(ask: Ask, n_components: int) -> Components:
    """Find the principal components of the pool, in two questions.

    The second sums about the mean that the first found: one sum of G numbers more than a single
    pass, and no digits are lost whatever the scale of the input.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`, each with the same genes.
    n_components
        Most components wanted, at least 1; a pool of fewer cells or genes gives as many as
        it has of either.

    Returns
    -------
    Components
        ``d = min(n_components, cells, G)`` of them.

    Raises
    ------
    RunError
        If the labs hold fewer than two cells together, or a value is not finite.
    """
    from scipy.linalg import eigh

    sums = ask(Question(MEAN))
    n_cells = int(sums["n"][0])
    if n_cells < 2:
        raise RunError(f"principal components need 2 cells or more and the labs hold {n_cells}")
    mean = sums["sum"] / n_cells
    covariance = ask(Question(SCATTER, {"shift": mean}))["scatter"] / (n_cells - 1)
    if not np.isfinite(covariance).all():
        raise RunError("some lab's standardised expression has values that are not finite")
    n_genes = len(mean)
    d = min(n_components, n_cells, n_genes)
    variances, axes = eigh(covariance, subset_by_index=(n_genes - d, n_genes - 1))
    axes = axes.T[::-1]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(d), largest])[:, None]
    return Components(mean, axes, variances[::-1].clip(min=0))


def as_encoder(components: Components) -> Arrays:
    """Write the map as an encoder of one linear layer, so that it is saved and used like any.

    Returns
    -------
    Arrays
        ``encoder.0.weight`` float32 (d, G) and ``encoder.0.bias`` float32 (d,).
    """
    bias = -components.axes @ components.mean
    return {
        "encoder.0.weight": components.axes.astype(np.float32),
        "encoder.0.bias": bias.astype(np.float32),
    }


def _batches(cells: CellMatrix) -> Iterator[np.ndarray]:
    """Give the cells in float64, some at a time."""
    for start in range(0, cells.n_cells, _ROWS):
        rows = np.arange(start, min(start + _ROWS, cells.n_cells))
        yield cells.batch(rows).astype(np.float64)


def check_sum(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`sum_cells`: values are clipped."""
    most = asked.largest
    return finding(
        adds_up("n", sums["n"], asked.n_cells),
        within("sum", sums["sum"], asked.n_cells, -most, most),
    )


def check_scatter(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`scatter`.

    It is symmetric, and no product is above that of the two standard deviations (Cauchy–Schwarz).
    """
    products = sums["scatter"]
    squares = np.diagonal(products)
    farthest = asked.largest + np.abs(asked.question.arrays["shift"])
    found = finding(
        at_least("the diagonal of scatter", squares, 0),
        at_most("the diagonal of scatter", squares, asked.n_cells * np.square(farthest)),
    )
    if found:
        return found
    lengths = np.sqrt(squares)
    if not np.allclose(products, products.T, rtol=1e-6, atol=1e-6 * float(squares.max(initial=0))):
        return "scatter is not symmetric"
    rounding = 1e-9 * float(squares.max(initial=0))
    return at_most("a product in scatter", np.abs(products), np.outer(lengths, lengths) + rounding)


CHECKS: dict[str, Check] = {MEAN: check_sum, SCATTER: check_scatter}
