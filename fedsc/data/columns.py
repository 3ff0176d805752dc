"""Sums, mean and variance of the columns of sparse matrices."""

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix


def centred_sums(
    matrix: csr_matrix, centre: np.ndarray, n_cells: int, stored: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum x − c and (x − c)² over every column, zeros included.

    Parameters
    ----------
    matrix
        CSR, cells × genes.
    centre
        c of every column, (genes,). Near the mean, nothing cancels when mean ≫ variance.
    n_cells
        How many of the rows count; the others hold no entry.
    stored
        Of :func:`count_columns`, where it is known.

    Returns
    -------
    tuple
        Both float64 (genes,).
    """
    zeros = n_cells - (count_columns(matrix) if stored is None else stored)
    centred = matrix.data - centre[matrix.indices]
    sums = column_sums(matrix, centred) - zeros * centre
    squares = column_sums(matrix, centred**2) + zeros * centre**2
    return sums, squares


def count_columns(matrix: csr_matrix) -> np.ndarray:
    """Count the stored values of every column, int64 (columns,)."""
    return column_sums(matrix, np.ones(matrix.nnz)).astype(np.int64)


def column_sums(matrix: csr_matrix, values: np.ndarray) -> np.ndarray:
    """Sum values that stand where a matrix stores its own, by column and in the order of the rows.

    The same bits as ``np.bincount(matrix.indices, values)``, without its copies.

    Parameters
    ----------
    matrix
        CSR, cells × genes.
    values
        One for each stored value, (non-zeros,).

    Returns
    -------
    np.ndarray
        float64 (genes,).
    """
    n_rows, width = matrix.shape
    transposed = csc_matrix(
        (values.astype(np.float64, copy=False), matrix.indices, matrix.indptr),
        shape=(width, n_rows),
    )
    return np.asarray(transposed @ np.ones(n_rows))


def mean_variance(
    centre: np.ndarray, sums: np.ndarray, squares: np.ndarray, n: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and variance (n − 1, as scanpy) from :func:`centred_sums` over n cells.

    Both are 0 where there is no cell. What is left of the variance of a constant by rounding
    (below 1e-14 of the mean) is 0.
    """
    n = np.asarray(n, dtype=np.float64)
    shift = sums / np.maximum(n, 1)
    mean = np.where(n > 0, centre + shift, 0.0)
    variance = np.maximum(squares - sums * shift, 0) / np.maximum(n - 1, 1)
    return mean, np.where(variance > (1e-14 * mean) ** 2, variance, 0.0)


def standard_deviation(variance: np.ndarray) -> np.ndarray:
    """Take the root, and 1 for a constant gene, as scanpy's ``scale`` does."""
    return np.where(variance > 0, np.sqrt(variance), 1.0)
