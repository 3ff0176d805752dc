"""Split by a real column of ``obs`` (study, donor, technology): the split that makes no labels."""

import numpy as np
import pandas as pd

from fedsc.data.groups import group_names
from fedsc.errors import ConfigError, DataError
from fedsc.names import safe_names
from fedsc.options import MOST_LABS


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
        If a cell has no value.
    ConfigError
        If the column has more values than labs are allowed, or two would give the same lab name.
    """
    key = values.name
    texts = group_names(values)
    missing = int((texts == "").sum())
    if missing:
        raise DataError(
            f"column '{key}' has no value for {missing} of {len(values)} cells: "
            f"fill them in or remove the cells"
        )
    found, value_of_cell = np.unique(texts.astype(str), return_inverse=True)
    if len(found) > MOST_LABS:
        raise ConfigError(
            f"option partition-key = '{key}': the column has {len(found)} values, "
            f"allowed are {MOST_LABS} labs; name a column of studies, donors or batches"
        )
    code_of = {str(value): code for code, value in enumerate(found)}
    return {
        name: np.flatnonzero(value_of_cell == code_of[value]).astype(np.int64)
        for name, value in safe_names(code_of, f"column '{key}'").items()
    }
