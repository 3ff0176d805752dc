"""Columns of ``obs`` that group cells (types, donors, batches), read the same way everywhere."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MOST_BATCHES = 256
"""Batches in a lab."""


def group_names(values: "pd.Series[Any]") -> np.ndarray:
    """Read a column that names groups (types, donors, batches) the same way everywhere.

    Parameters
    ----------
    values
        Text or numbers, (cells,).

    Returns
    -------
    np.ndarray
        str (cells,), dtype object: ``""`` where one is missing, and whole numbers without a
        fraction. A column of whole numbers becomes floats where one is missing.
    """
    import pandas as pd

    codes, found = pd.factorize(values)
    names = [
        str(int(one)) if isinstance(one, float | np.floating) and one.is_integer() else str(one)
        for one in found
    ]
    types: np.ndarray = np.array([*names, ""], dtype=object)[codes]  # -1 is the last: missing
    return types


def doubtful_types(names: Iterable[str]) -> str:
    """Say which names of cell types may stand for none; ``""`` if no name does.

    They count all the same: ``unknown`` may be what a lab means. A missing value that was once
    written as text is read back as ``nan``.
    """
    found = sorted({name for name in names if name.strip().casefold() in _NO_TYPE})
    if not found:
        return ""
    shown = ", ".join(f"'{name}'" for name in found)
    return f"counted as cell types: {shown}; where a cell has no type, leave its label empty"


_NO_TYPE = {
    *("nan", "na", "n/a", "<na>", "none", "null", "-", "?", ".", "unknown", "unassigned"),
    *("not assigned", "unlabelled", "unlabeled", "undefined", "unclassified", "unannotated"),
}
"""What stands in label columns where a cell has no type, in small letters."""


def batches_of(obs: "pd.DataFrame", column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the batch of every cell; all 0, without a name, where no column is named.

    Parameters
    ----------
    obs
        Annotation of the cells.
    column
        Of ``obs``.

    Returns
    -------
    tuple
        Batch of every cell, int64 (cells,), and names of the batches in the order of the
        alphabet.

    Raises
    ------
    DataError
        If there is no such column, or a cell has no value in it.
    """
    if not column:
        return np.zeros(len(obs), dtype=np.int64), ()
    if column not in obs.columns:
        known = ", ".join(f"'{name}'" for name in obs.columns) or "no columns"
        raise DataError(
            f"batch-key = '{column}': obs has no such column; it has {known}",
            "batch-key: the lab's obs has no such column; the lab can name its own in its "
            "node config or labs.toml, and its own log lists those there are",
        )
    values = group_names(obs[column])
    if missing := int((values == "").sum()):
        wrong = f"{missing} of {len(obs)} cells have no value; fill them in, or name a "
        wrong += "column without gaps"
        raise DataError(f"batch-key = '{column}': {wrong}", f"batch-key: {wrong}")
    names, codes = np.unique(values.astype(str), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names))


def refuse_many(batches: np.ndarray) -> None:
    """Refuse more batches than Harmony takes of one lab.

    Parameters
    ----------
    batches
        Of every cell, int (cells,), counted from 0.

    Raises
    ------
    DataError
        If there are more than :data:`MOST_BATCHES`.
    """
    if (count := batches.max(initial=0) + 1) > MOST_BATCHES:
        raise DataError.without_data(
            f"batch-key: {count} batches in one lab, at most {MOST_BATCHES}: does the column name "
            "batches?"
        )
