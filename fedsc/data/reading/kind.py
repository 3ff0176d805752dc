"""Tell raw counts from log-normalised values from everything else, by the values alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.expression import Kind

KIND_NAMES: Mapping[Kind, str] = {"counts": "raw counts", "lognorm": "log-normalised values"}

LARGEST_LOG = 20.0
"""log2(1e6 + 1) = 19.9 is the largest logarithm of a normalised count in use."""

_LARGEST_COUNT = 2**24  # beyond it float32 skips whole numbers
_BLOCK = 2**20


@dataclass(frozen=True)
class Values:
    """What the values of a matrix look like.

    Attributes
    ----------
    not_finite
        How many are NaN or infinite.
    first_not_finite
        Row and column of the first of them.
    negative
        How many are below zero.
    first_negative
        Row and column of the first of them.
    smallest, largest
        Of the finite ones; zero when there are none.
    whole
        Whether all finite ones are whole numbers.
    linear
        Whether every cell's values are multiples of its smallest (normalised, no logarithm).
    """

    not_finite: int
    first_not_finite: tuple[int, int] | None
    negative: int
    first_negative: tuple[int, int] | None
    smallest: float
    largest: float
    whole: bool
    linear: bool


def look_at(matrix: csr_matrix) -> Values:
    """Summarise the stored values block by block, without a copy of the matrix.

    Parameters
    ----------
    matrix
        cells × genes, any number type.
    """
    not_finite, negative, smallest, largest, whole = 0, 0, 0.0, 0.0, True
    first, below = None, None
    for start in range(0, matrix.nnz, _BLOCK):
        stored = matrix.data[start : start + _BLOCK]
        finite = np.isfinite(stored)
        block = stored if finite.all() else stored[finite]
        if len(block) < len(stored):
            if first is None:
                first = start + int(np.argmin(finite))
            not_finite += len(stored) - len(block)
        if block.size:
            least, most = float(block.min()), float(block.max())
            smallest, largest = min(smallest, least), max(largest, most)
            if least < 0:
                if below is None:
                    below = start + int(np.argmax(finite & (stored < 0)))
                negative += int(np.count_nonzero(block < 0))
            whole = whole and bool((np.rint(block) == block).all())
    return Values(
        not_finite=not_finite,
        first_not_finite=None if first is None else _position(matrix, first),
        negative=negative,
        first_negative=None if below is None else _position(matrix, below),
        smallest=smallest,
        largest=largest,
        whole=whole,
        linear=not (not_finite or negative or whole) and _linear(matrix),
    )


def joined(parts: Iterable[tuple[int, Values]]) -> Values:
    """Sum up what blocks of rows look like.

    Parameters
    ----------
    parts
        Rows of each block, and what it looks like, from first to last.
    """
    whole = look_at(csr_matrix((0, 0), dtype=np.float32))
    start, unlike = 0, False
    for rows, part in parts:
        unlike = unlike or not (part.linear or part.whole)
        whole = Values(
            whole.not_finite + part.not_finite,
            whole.first_not_finite or _further_down(part.first_not_finite, start),
            whole.negative + part.negative,
            whole.first_negative or _further_down(part.first_negative, start),
            min(whole.smallest, part.smallest),
            max(whole.largest, part.largest),
            whole.whole and part.whole,
            (whole.linear or part.linear) and not unlike,
        )
        start += rows
    return whole


def _further_down(place: tuple[int, int] | None, rows: int) -> tuple[int, int] | None:
    return None if place is None else (place[0] + rows, place[1])


def judge(values: Values) -> tuple[Kind | None, list[str]]:
    """Tell counts from log-normalised values from neither.

    Counts are whole. Of other values the logarithm of something normalised stays below
    :data:`LARGEST_LOG`, and a cell's values are no multiples of each other.

    Returns
    -------
    kind, problems
        The kind, or ``None`` and what is wrong, as ends of a sentence that begins with the
        matrix's name.
    """
    problems = []
    if values.not_finite:
        problems.append(f"holds {count(values.not_finite, 'value')} that are NaN or infinite")
    if values.negative and values.whole:
        problems.append(
            f"holds {count(values.negative, 'negative value')}, down to {values.smallest:.4g}, and "
            "no count is below zero"
        )
    elif values.negative:
        problems.append(f"holds scaled values (negative, down to {values.smallest:.4g})")
    elif not values.largest and not values.not_finite:
        problems.append("holds only zeros")
    elif values.whole and values.largest > _LARGEST_COUNT:
        problems.append(f"holds values up to {values.largest:.4g}, too many for molecule counts")
    elif values.linear:
        problems.append(
            "holds neither raw counts nor log-normalised values: each cell's values are multiples "
            "of its smallest, so they are normalised but not log-transformed (sc.pp.log1p)"
        )
    elif not values.whole and values.largest > LARGEST_LOG:
        problems.append(
            "holds neither raw counts nor log-normalised values: they are not whole numbers, and "
            f"go up to {values.largest:,.6g} where logarithms stay below {LARGEST_LOG:g}; give the "
            "counts as they were measured (X, a layer or raw), or round counts that were corrected "
            "or estimated, so that they are whole"
        )
    if problems:
        return None, problems
    return ("counts" if values.whole else "lognorm"), []


def count(number: int, thing: str) -> str:
    """Write a number of things: ``1 cell``, ``2 cells``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _linear(matrix: csr_matrix) -> bool:
    """Test some cells for values k·s; those of log1p(k·s) bend away from whole ratios."""
    n_cells = matrix.shape[0]
    ratios = [np.empty(0)]
    for row in np.unique(np.linspace(0, n_cells - 1, 200).astype(int)):
        values = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]].astype(np.float64)
        values = values[values > 0]
        if values.size:
            ratios.append(values / values.min())
    ratio = np.concatenate(ratios)
    ratio = ratio[(ratio > 1.5) & (ratio < 1000)]  # float32 says nothing about larger ones
    if ratio.size < 20:
        return False
    near = np.abs(ratio - np.rint(ratio)) < 1e-5 * ratio
    return bool(near.mean() > 0.99)


def _position(matrix: csr_matrix, index: int) -> tuple[int, int]:
    row = int(np.searchsorted(matrix.indptr, index, side="right")) - 1
    return row, int(matrix.indices[index])
