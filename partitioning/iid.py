"""Split without regard to anything: every lab is a random sample of the pool."""

import numpy as np

from fedsc.errors import ConfigError


def iid(cells: int, labs: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle the cells and cut them into parts whose sizes differ by one at most.

    Parameters
    ----------
    cells
        Number of cells in the pool.
    labs
        Number of labs K.
    rng
        Moves the shuffle.

    Returns
    -------
    list of np.ndarray
        Sorted int64 rows of every lab, disjoint, none empty, all cells covered.

    Raises
    ------
    ConfigError
        If there are more labs than cells.
    """
    if labs > cells:
        raise ConfigError(
            f"option labs = {labs}: the data have {cells} cells; allowed is 1 to {cells}"
        )
    return [np.sort(part).astype(np.int64) for part in np.array_split(rng.permutation(cells), labs)]
