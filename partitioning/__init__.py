"""Split one set into labs, for simulations: one scheme a file, pure functions of a generator."""

import difflib

import numpy as np
import pandas as pd

from fedsc.data.expression import LabCells
from fedsc.data.groups import group_names
from fedsc.errors import ConfigError, DataError
from fedsc.options import SplitOptions
from fedsc.rng import numpy_generator
from partitioning.column import column
from partitioning.dirichlet import dirichlet
from partitioning.iid import iid
from partitioning.subtypes import subtypes

__all__ = ["column", "dirichlet", "iid", "partition", "partition_obs", "subtypes"]


def partition(expression: LabCells, options: SplitOptions, seed: int) -> dict[str, np.ndarray]:
    """Split a set into labs as ``options.scheme`` says.

    Parameters
    ----------
    expression
        The whole set; only its ``obs`` and ``label_key`` are looked at.
    options
        The scheme and what it needs.
    seed
        Moves the split; a split by column has no draw.

    Returns
    -------
    dict of str to np.ndarray
        Lab name to its sorted int64 rows, in the order of the names; disjoint, none empty. Labs
        are ``lab-0`` …, zero-padded so that they sort, or the values of the partition column.

    Raises
    ------
    ConfigError
        If the options do not fit the data, e.g. more labs than cells or a column that is not there.
    DataError
        If cells lack the label or the column the split needs.
    """
    return partition_obs(expression.obs, expression.label_key, options, seed)


def partition_obs(
    obs: pd.DataFrame, label_key: str, options: SplitOptions, seed: int
) -> dict[str, np.ndarray]:
    """Split cells by their annotation alone (see :func:`partition`).

    Parameters
    ----------
    obs
        Annotation, one row per cell.
    label_key
        Column with cell types; ``""`` when none is known.
    options, seed
        As for :func:`partition`.

    Returns
    -------
    dict of str to np.ndarray
        As :func:`partition`.
    """
    if len(obs) == 0:
        raise DataError("there are no cells to split into labs")
    if label_key:
        _column(obs, label_key, "label-key")
    rng = numpy_generator(seed, "partition")
    if options.scheme == "column":
        return column(_column(obs, options.key, "partition-key"))
    if options.scheme == "iid":
        parts = iid(len(obs), options.labs, rng)
    elif options.scheme == "dirichlet":
        labels = _labels(obs, label_key, "dirichlet")
        parts = dirichlet(labels, options.labs, options.beta, options.min_cells, rng)
    else:
        labels = _labels(obs, label_key, "subtypes")
        cover = options.cover or "all"
        parts = subtypes(labels, options.labs, options.subtypes_per_lab, cover, rng)
    width = len(str(options.labs - 1))
    return {f"lab-{lab:0{width}d}": rows for lab, rows in enumerate(parts)}


def _labels(obs: pd.DataFrame, label_key: str, scheme: str) -> np.ndarray:
    """Give the cell types as strings, or say why the scheme cannot have them."""
    if not label_key:
        raise ConfigError(
            f"option partition = '{scheme}' needs label-key, a column of obs with cell types, and "
            f"{_known(obs)}; partition = 'iid' needs none"
        )
    labels = group_names(_column(obs, label_key, "label-key"))
    missing = int((labels == "").sum())
    if missing:
        raise DataError(
            f"column '{label_key}' has no cell type for {missing} of {len(obs)} cells: "
            f"fill them in or remove the cells, or use partition = 'iid'"
        )
    return labels.astype(str)


def _column(obs: pd.DataFrame, key: str, option: str) -> pd.Series:
    if key not in obs.columns:
        close = difflib.get_close_matches(key, [str(name) for name in obs.columns], n=1)
        hint = f"did you mean '{close[0]}'?" if close else _known(obs)
        raise ConfigError(f"option {option} = '{key}': obs has no such column; {hint}")
    return obs[key]


def _known(obs: pd.DataFrame) -> str:
    names = ", ".join(f"'{name}'" for name in obs.columns)
    return f"obs has {names}" if names else "obs has no columns"
