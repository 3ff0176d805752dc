"""Split by a real column of ``obs`` (study, donor, technology): the split that makes no labels."""

import re

import numpy as np
import pandas as pd

from fedsc.errors import ConfigError, DataError

MOST_LABS = 1000
_LONGEST = 100  # file systems allow 255 bytes, a letter may take four, and a suffix follows


def column(values: pd.Series) -> dict[str, np.ndarray]:
    """Make every value of a column a lab.

    Parameters
    ----------
    values
        The column, one value per cell; its name is used in messages.

    Returns
    -------
    dict of str to np.ndarray
        Lab name (the value, made safe as the name of a file) to its sorted int64 rows.

    Raises
    ------
    DataError
        If a cell has no value, or two values would give the same lab name.
    ConfigError
        If the column has more than 1000 values.
    """
    key = values.name
    missing = int(values.isna().sum())
    if missing:
        raise DataError(
            f"column '{key}' has no value for {missing} of {len(values)} cells: "
            f"fill them in or remove the cells"
        )
    found, value_of_cell = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
    if len(found) > MOST_LABS:
        raise ConfigError(
            f"option partition-key = '{key}': the column has {len(found)} values, "
            f"allowed are {MOST_LABS} labs; name a column of studies, donors or batches"
        )
    values_by_name: dict[str, str] = {}
    parts = {}
    for code, value in enumerate(found):
        name = safe_name(str(value))
        # Some file systems do not tell 'A.h5ad' from 'a.h5ad'.
        other = values_by_name.setdefault(name.casefold(), str(value))
        if other != value:
            raise DataError(
                f"column '{key}': values '{other}' and '{value}' would both be lab '{name}': "
                f"rename one"
            )
        parts[name] = np.flatnonzero(value_of_cell == code).astype(np.int64)
    return dict(sorted(parts.items()))


def safe_name(value: str) -> str:
    """Turn a value into a name that is safe as a file's: letters, digits, ``_``, ``.``, ``-``."""
    return re.sub(r"[^\w.-]+", "-", value).strip("-.")[:_LONGEST] or "lab"
