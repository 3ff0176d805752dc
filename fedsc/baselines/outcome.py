"""Where the results of a fit go: into an AnnData or a file of one, into JSON."""

from typing import Any

import numpy as np
import pandas as pd

from fedsc.baselines.method import Fitted
from fedsc.data.additions import Additions, storable


def additions_of(fitted: Fitted, about: dict[str, Any]) -> Additions:
    """Give the results of a fit their names, scanpy style.

    ``obsm["X_fedsc_<method>"]`` the embedding, ``obs["fedsc_<method>"]`` the clusters (a
    category), ``uns["fedsc_<method>"]`` the record, ``about`` in it; the method's name with
    underscores. scanpy's own ``X_pca`` and ``leiden`` stay.
    """
    key = f"fedsc_{fitted.record['method'].replace('-', '_')}"
    names = [str(j) for j in np.unique(fitted.clusters)]
    return Additions(
        {key: pd.Categorical(fitted.clusters.astype(str), categories=names)},
        {f"X_{key}": fitted.embedding},
        {key: storable(fitted.record | about)},
    )


def plain(value: Any) -> Any:
    """Turn a record into strict JSON: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
