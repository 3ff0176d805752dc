"""What a split looks like: cells per lab and type, as a table and as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedsc.plots.style import COLOURS

if TYPE_CHECKING:
    from rich.table import Table

_HATCHES = ("", "///", "...", "xxx", "---")  # 5 and 8 colours share no divisor: 40 types
_BAR = (1, 2, 2, 2, 79)  # matplotlib's codes: go there, three lines, close
_NAMED = 60  # labs whose names fit on the axis


def table(parts: Mapping[str, np.ndarray], labels: np.ndarray | None) -> pd.DataFrame:
    """Count the cells of every type in every lab.

    Parameters
    ----------
    parts
        Lab name to its rows.
    labels
        Cell type of every cell of the whole set, str (cells,); ``None`` when none are known.

    Returns
    -------
    pd.DataFrame
        int64, labs × types in the order of their names, types no lab holds included (zeros); a
        single column ``cells`` when no types are known.
    """
    labs = pd.Index(list(parts), name="lab")
    if labels is None:
        return pd.DataFrame({"cells": [len(rows) for rows in parts.values()]}, index=labs)
    types, type_of_cell = np.unique(labels, return_inverse=True)
    counts = [np.bincount(type_of_cell[rows], minlength=len(types)) for rows in parts.values()]
    return pd.DataFrame(np.array(counts, dtype=np.int64), index=labs, columns=types)


def rich_table(counts: pd.DataFrame) -> "Table":
    """Lay a :func:`table` out for the terminal, with sums; the longer side goes down."""
    from rich.markup import escape
    from rich.table import Table

    wide = counts if len(counts) > len(counts.columns) else counts.T
    across = "lab" if wide is not counts else "type"
    shown = Table("type" if across == "lab" else "lab", show_footer=True)
    shown.columns[0].footer = "all"
    for name in wide.columns:
        shown.add_column(escape(str(name)), str(wide[name].sum()), justify="right")
    shown.add_column("all", str(int(wide.to_numpy().sum())), justify="right")
    for name, row in wide.iterrows():
        cells = (str(count) if count else "·" for count in row)
        shown.add_row(escape(str(name)), *cells, str(row.sum()))
    return shown


def plot(counts: pd.DataFrame, path: Path) -> None:
    """Draw a :func:`table` as stacked bars, one lab a bar, and save it.

    Parameters
    ----------
    counts
        labs × types.
    path
        Written in the format its ending names (``.png``, ``.svg``, …).
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    labs, types = counts.shape
    figure = Figure(
        figsize=(min(3 + 0.5 * labs, 16) + 1.5, max(4.0, 0.22 * types)), layout="constrained"
    )
    axes = figure.add_subplot()
    bottom = np.zeros(labs)
    for kind, name in enumerate(counts.columns):
        top = bottom + counts[name].to_numpy()
        # One outline for all labs: matplotlib takes some 10 ms per hatched patch.
        axes.add_patch(
            PathPatch(
                Outline(_bars(bottom, top), np.tile(_BAR, labs)),
                facecolor=COLOURS[kind % len(COLOURS)],
                hatch=_HATCHES[kind % len(_HATCHES)],
                edgecolor="black",
                linewidth=0.4,
                label=_plain(name),
            )
        )
        bottom = top
    axes.set_xlim(-0.6, labs - 0.4)
    axes.set_ylim(0, 1.05 * max(bottom.max(), 1))
    if labs <= _NAMED:
        names = [_plain(name) for name in counts.index]
        axes.set_xticks(np.arange(labs), names, rotation=45, ha="right")
    else:
        axes.set_xlabel(f"{labs} labs")
        axes.set_xticks([])
    axes.set_ylabel("cells")
    axes.spines[["top", "right"]].set_visible(False)
    if types > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def _bars(bottom: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Give the corners of one bar per lab, each closed: float64 (5 · labs, 2)."""
    at = np.arange(len(bottom))
    x = at[:, None] + np.array([-0.4, -0.4, 0.4, 0.4, -0.4])
    y = np.stack([bottom, top, top, bottom, bottom], axis=1)
    return np.stack([x, y], axis=2).reshape(-1, 2)


def _plain(name: object) -> str:
    # matplotlib reads $…$ as mathematics and hides legend entries that start with _.
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
