"""Before and after a fit: which k is meant, what the clusters score, where the results go."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.baselines.method import Fitted
from fedsc.data.annotated import storable
from fedsc.data.expression import Expression
from fedsc.data.reading.validate import label_problems, name_problems, value_problems
from fedsc.errors import ConfigError, DataError
from fedsc.evaluate import scores

if TYPE_CHECKING:
    import anndata


def resolve_k(k: int | str, expression: Expression) -> tuple[int | None, str]:
    """Say how many clusters are meant; the labels are looked at only when asked to.

    Parameters
    ----------
    k
        A number, ``"auto"`` (Leiden chooses) or ``"true"`` (as many as there are labels).
    expression
        The cells, with labels for ``"true"``.

    Returns
    -------
    tuple
        The number, ``None`` for ``"auto"``, and a sentence for the record on where it is from.

    Raises
    ------
    ConfigError
        If it is none of these.
    DataError
        If it is ``"true"`` and no labels are known.
    """
    text = str(k).strip().lower()
    if text == "auto":
        return None, "chosen by Leiden, labels not looked at"
    if text == "true":
        labels = _labels(expression)
        if labels is None:
            raise DataError(
                "k = 'true' takes the number of clusters from the labels, and none are known; "
                "name their column with the label key, or say k = 'auto'"
            )
        known = int(labels.nunique())
        return known, f"TAKEN FROM THE LABELS ({known} types in '{expression.label_key}')"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text), "given"
    raise ConfigError(f"k = {k!r}: should be a number of clusters, 'auto' or 'true'")


def require_device(device: str) -> None:
    """Refuse a torch device that is not there.

    Raises
    ------
    ConfigError
        Saying what torch says about it.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"device = '{device}' cannot be used: {first}") from None


def score(fitted: Fitted, expression: Expression) -> dict[str, Any]:
    """Score the clusters; against labels, the cells that have one.

    Returns
    -------
    dict
        The four :data:`fedsc.evaluate.METRICS` (ARI and NMI are ``None`` without labels), the
        number of clusters ``k``, of cells and of labelled cells.
    """
    labels = _labels(expression)
    found = scores(fitted.embedding, fitted.clusters, None)
    labelled = np.zeros(len(fitted.clusters), dtype=bool) if labels is None else labels.notna()
    rows = np.flatnonzero(labelled)
    if labels is not None and len(rows):
        of_labelled = scores(
            fitted.embedding[rows], fitted.clusters[rows], labels.iloc[rows].astype(str).to_numpy()
        )
        found |= {name: of_labelled[name] for name in ("ari", "nmi")}
    return {
        **found,
        "k": len(np.unique(fitted.clusters)),
        "cells": len(fitted.clusters),
        "labelled cells": len(rows),
    }


def expression_of(adata: "anndata.AnnData", *, layer: str, label_key: str) -> Expression:
    """Validate an AnnData in memory as :func:`fedsc.data.reading.read.read` does a file.

    Parameters
    ----------
    adata
        Not modified.
    layer
        ``""`` for ``X``, ``"raw"`` for ``adata.raw``, else a layer's name.
    label_key
        Column of ``obs`` with cell types, or ``""``.

    Raises
    ------
    DataError
        With one line per problem.
    """
    if layer == "raw" and adata.raw is None:
        raise DataError("there is no adata.raw; leave layer = 'raw' out")
    if layer not in ("", "raw") and layer not in adata.layers:
        known = ", ".join(adata.layers) or "none"
        raise DataError(f"there is no layer '{layer}'; adata.layers has: {known}")
    values = adata.raw.X if layer == "raw" else adata.layers[layer] if layer else adata.X
    if values is None:
        raise DataError("adata.X is empty; name the layer that holds counts")
    names = adata.raw.var_names if layer == "raw" else adata.var_names
    genes, cells = names.to_numpy(dtype=object), adata.obs_names.to_numpy(dtype=object)
    obs = adata.obs.copy()
    problems = name_problems(genes, cells) + label_problems(obs, label_key)
    matrix = csr_matrix(values, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    kind = None
    if min(matrix.shape):
        kind, found = value_problems(matrix, "adata", cells, genes, {})
        problems += found
    if problems or kind is None:
        raise DataError("\n".join(problems))
    return Expression(matrix, genes, cells, obs, kind, label_key)


def annotate(adata: "anndata.AnnData", method: str, fitted: Fitted, about: dict[str, Any]) -> None:
    """Write the results into an AnnData of the same cells, scanpy style.

    ``obsm["X_<method>"]`` the embedding, ``obs["<method>"]`` the clusters (a category),
    ``uns["<method>"]`` the record; the method's name with underscores.
    """
    key = method.replace("-", "_")
    names = [str(j) for j in np.unique(fitted.clusters)]
    adata.obsm[f"X_{key}"] = fitted.embedding
    adata.obs[key] = pd.Categorical(fitted.clusters.astype(str), categories=names)
    adata.uns[key] = storable(about | fitted.record)


def plain(value: Any) -> Any:
    """Turn a record into strict JSON: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _labels(expression: Expression) -> "pd.Series[Any] | None":
    return expression.obs[expression.label_key] if expression.label_key else None
