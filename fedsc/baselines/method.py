"""The common signature of the centralised methods."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedsc.data.expression import Expression

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Told after every unit of work: phase, units done, units in all, figures to show."""


def silent(phase: str, done: int, total: int, figures: dict[str, float]) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Settings:
    """What a person chooses for one fit.

    Attributes
    ----------
    resolution
        Of Leiden, where it chooses the clusters; more clusters when larger. scanpy's own 1.0
        splits the types of sets of a few thousand cells.
    seed
        Moves every draw.
    preset
        Name of one of the method's presets; ``""`` = its first.
    overrides
        Single values of the preset to change.
    device
        Torch device of the trained methods.
    checkpoint
        Folder where long fits keep what they have; ``None`` keeps nothing.
    progress
        Called as the fit goes on.
    """

    resolution: float = 0.5
    seed: int = 0
    preset: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    checkpoint: Path | None = None
    progress: Progress = silent


@dataclass(frozen=True)
class Fitted:
    """What a method found.

    Attributes
    ----------
    embedding
        float32 (cells, dimensions).
    clusters
        int (cells,).
    record
        How it was found, JSON-able: losses, choices and the like; the rest is put in by
        :func:`fedsc.baselines.fitting.fit`.
    extras
        Arrays a method gives besides (attention maps, factors), by name.
    """

    embedding: np.ndarray
    clusters: np.ndarray
    record: dict[str, Any]
    extras: dict[str, np.ndarray] = field(default_factory=dict)


Fit = Callable[[Expression, Any, int | None, Settings], Fitted]
"""Cells, preset, number of clusters (``None``: Leiden on the embedding chooses), settings."""
