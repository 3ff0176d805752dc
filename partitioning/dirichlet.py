"""Label-skewed split: each type's shares over the labs follow a Dirichlet distribution.

The usual benchmark of heterogeneous labs (Hsu, Qi & Brown 2019, arXiv:1909.06335; the per-class
form with a least size is Li et al. 2022, arXiv:2102.02079).
"""

import numpy as np

from fedsc.errors import ConfigError

TRIES = 1000


def dirichlet(
    labels: np.ndarray, labs: int, beta: float, min_cells: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut every type's cells in shares drawn from Dirichlet(β, …, β) over the labs.

    Shares are redrawn together until every lab holds ``min_cells``, at most :data:`TRIES` times.

    Parameters
    ----------
    labels
        Cell type of every cell, str (cells,).
    labs
        Number of labs K.
    beta
        Concentration β > 0: towards 0 a type lives in one lab, towards ∞ the split is IID.
    min_cells
        Fewest cells of a lab, ``>= 1``.
    rng
        Moves shares and cells.

    Returns
    -------
    list of np.ndarray
        Sorted int64 rows of every lab, disjoint, all cells covered.

    Raises
    ------
    ConfigError
        If the labs cannot hold ``min_cells`` each, or no draw gave it to them.
    """
    if labs * min_cells > len(labels):
        raise ConfigError(
            f"option labs = {labs} with min-cells = {min_cells} needs {labs * min_cells} cells, "
            f"but the data have {len(labels)}: lower one of them"
        )
    types, type_of_cell, counts = np.unique(labels, return_inverse=True, return_counts=True)
    for _ in range(TRIES):
        shares = rng.dirichlet(np.full(labs, beta), size=len(types))
        ends = np.rint(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
        ends[:, -1] = counts  # rounding must not lose a cell
        sizes = np.diff(ends, axis=1, prepend=0)
        if sizes.sum(axis=0).min() >= min_cells:
            break
    else:
        raise ConfigError(
            f"option beta = {beta:g} gave no split of {len(labels)} cells over labs = {labs} with "
            f"at least min-cells = {min_cells} in each, {TRIES} draws long: "
            f"raise beta, or lower labs or min-cells"
        )
    lab_of_cell = np.empty(len(labels), dtype=np.int64)
    for kind in range(len(types)):
        cells = rng.permutation(np.flatnonzero(type_of_cell == kind))
        lab_of_cell[cells] = np.repeat(np.arange(labs), sizes[kind])
    return [np.flatnonzero(lab_of_cell == lab).astype(np.int64) for lab in range(labs)]
