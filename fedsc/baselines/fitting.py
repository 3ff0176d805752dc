"""Fit one method to one file: which preset, which k, how long, how good; one record of it all."""

import math
import time
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import numpy as np

from fedsc.baselines import METHODS
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError
from fedsc.evaluate import scores
from fedsc.threads import one_blas_thread
from fedsc.versions import versions

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "graspologic-native")


@one_blas_thread()
def fit(method: str, expression: Expression, settings: Settings, k: int | str = "auto") -> Fitted:
    """Run a method, score what it found and write the record.

    Parameters
    ----------
    method
        A key of :data:`~fedsc.baselines.METHODS`.
    expression
        Cells of one file, with labels where scores against them are wanted.
    settings
        Preset, seed, device and so on.
    k
        Number of clusters, or ``"auto"`` or ``"true"``; see :func:`resolve_k`.

    Returns
    -------
    Fitted
        Its record holds ``method``, ``preset``, ``seed``, ``device``, ``k is``, ``scores``,
        ``seconds``, ``versions``, and what the method says of itself.

    Raises
    ------
    ConfigError
        If method, preset, overrides, k or device are impossible.
    DataError
        If the cells do not suit the method.
    RunError
        If there is a checkpoint of something else, or training diverged.
    """
    preset = preset_of(method, settings, k)
    require_device(settings.device)
    clusters, k_from = resolve_k(k, expression)
    module = import_module(METHODS[method])
    began = time.monotonic()
    fitted: Fitted = module.fit(expression, preset, clusters, settings)
    record = {
        "method": method,
        "preset": asdict(preset),
        "seed": settings.seed,
        "device": settings.device,
        "k is": k_from,
        **fitted.record,
        "seconds": time.monotonic() - began,
        "scores": score(fitted, expression),
        "versions": versions(*_PACKAGES),
    }
    return replace(fitted, record=record)


def require_method(method: str) -> None:
    """Refuse a method that is none.

    Raises
    ------
    ConfigError
        Naming those there are.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'; known are {', '.join(METHODS)}")


def preset_of(method: str, settings: Settings, k: int | str = "auto") -> Any:
    """Give what a method is to be fitted with; refuse what no cells could be.

    Raises
    ------
    ConfigError
        If method, preset, overrides, resolution or k are impossible.
    """
    require_method(method)
    module = import_module(METHODS[method])
    asked = _asked_k(k)
    if method == "leiden":
        module.refuse_k(asked)
    if not 0 <= settings.resolution < math.inf:
        raise ConfigError(f"option resolution = {settings.resolution!r}: should be 0 or more")
    return choose(module.PRESETS, settings.preset, settings.overrides)


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
    asked = _asked_k(k)
    if asked is None:
        return None, "chosen by Leiden, labels not looked at"
    if asked == "true":
        labels = expression.labels
        if labels is None:
            raise DataError(
                "k = 'true' takes the number of clusters from the labels, and none are known; "
                "name their column with the label key, or say k = 'auto'"
            )
        known = len(set(labels) - {""})
        return known, f"TAKEN FROM THE LABELS ({known} types in '{expression.label_key}')"
    return int(asked), "given"


def _asked_k(k: int | str) -> int | str | None:
    """Read what a person typed for k: a number, ``"true"``, or ``None`` for ``"auto"``."""
    text = str(k).strip().lower()
    if text == "auto":
        return None
    if text == "true":
        return text
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
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
        The :data:`fedsc.evaluate.METRICS` (those against labels are ``None`` without labels), the
        number of clusters ``k``, of cells and of labelled cells.
    """
    labels = expression.labels
    return {
        **scores(fitted.embedding, fitted.clusters, labels),
        "k": len(np.unique(fitted.clusters)),
        "cells": len(fitted.clusters),
        "labelled cells": 0 if labels is None else int((labels != "").sum()),
    }
