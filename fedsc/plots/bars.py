"""Bars: the clusters of each lab, the markers of each cluster."""

from typing import TYPE_CHECKING

import numpy as np

from fedsc.plots.style import COLOURS, HATCHES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

_SHOWN = 0.05  # share of a bar that has room for a name


def draw_composition(axes: "Axes", table: "pd.DataFrame") -> None:
    """Draw which clusters the cells of each lab are in, as shares.

    Parameters
    ----------
    axes
        Drawn on.
    table
        Number of cells by lab (rows) and cluster (columns).
    """
    shares = table.div(table.sum(axis=1), axis=0)
    left = np.zeros(len(table))
    for i, cluster in enumerate(table.columns):
        width = shares[cluster].to_numpy()
        bars = axes.barh(
            range(len(table)),
            width,
            left=left,
            color=COLOURS[i % len(COLOURS)],
            hatch=HATCHES[i // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
        )
        for bar, share in zip(bars, width, strict=True):
            if share >= _SHOWN:
                _write_on(axes, bar, str(cluster))
        left += width
    labels = [f"{lab} ({n:,})" for lab, n in table.sum(axis=1).items()]
    axes.set_yticks(range(len(table)), labels)
    axes.set(xlim=(0, 1), xlabel="share of the lab's cells", title="Clusters by lab (cells)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()


def draw_markers(panels: "list[Axes]", table: "pd.DataFrame", n_genes: int) -> None:
    """Draw the best markers of each cluster as bars, the best on top; none that is not higher.

    Parameters
    ----------
    panels
        One for each cluster.
    table
        As ``markers.csv``.
    n_genes
        Genes of each cluster.
    """
    for i, (axes, (cluster, rows)) in enumerate(
        zip(panels, table.groupby("cluster", sort=True), strict=True)
    ):
        best = rows[rows["score"] > 0].head(n_genes)
        axes.barh(range(len(best)), best["score"], color=COLOURS[i % len(COLOURS)])
        axes.set_yticks(range(len(best)), best["gene"])
        axes.invert_yaxis()
        axes.set(title=f"Cluster {cluster}", xlabel="score t")
        axes.spines[["top", "right"]].set_visible(False)


def _write_on(axes: "Axes", bar: "Rectangle", text: str) -> None:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(bar.get_facecolor())
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
    axes.text(
        bar.get_x() + bar.get_width() / 2,
        bar.get_y() + bar.get_height() / 2,
        text,
        ha="center",
        va="center",
        fontsize="small",
        color="white" if dark else "black",
    )
