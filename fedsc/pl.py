"""Pictures of a run, for notebooks; sizes, fonts and lines are matplotlib's ``rcParams``.

>>> fedsc.pl.map(run, color="fedsc_type")
>>> fedsc.pl.composition(run)
"""

from typing import TYPE_CHECKING

import numpy as np

from fedsc.errors import DataError
from fedsc.plots.bars import draw_composition, draw_markers
from fedsc.plots.curves import draw_curves
from fedsc.plots.maps import draw_map, make_room
from fedsc.results import Run

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["composition", "curves", "map", "markers"]


def curves(run: Run, *, axes: "list[Axes] | None" = None) -> "list[Axes]":
    """Draw loss, divergence d and share μ of own weights over the rounds, a line a lab.

    μ near 1 says that labs keep their own models and learn little from each other.

    Parameters
    ----------
    run
        With rounds.
    axes
        Three axes to draw on; default: a new figure.

    Raises
    ------
    DataError
        If the run's method has no rounds.
    """
    history = run.history
    if history.empty:
        raise DataError(f"{run.folder}: its method has no rounds, so there are no curves")
    panels = _panels(3, width=4.0) if axes is None else list(axes)
    draw_curves(panels, history, run.alpha)
    return panels


def map(
    data: "Run | anndata.AnnData",
    *,
    color: str = "fedsc_cluster",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the map that all labs share.

    Parameters
    ----------
    data
        A run, or cells with ``obsm["X_fedsc_umap"]``. Of a run without labs' files the
        micro-centres are drawn, groups of cells.
    color
        Column of ``obs`` to colour by, or, of a run, ``"lab"``. Numbers have a bar of colours, all
        else names groups. Cells that quality control has left out are grey.
    ax
        Drawn on; default: a new figure.

    Raises
    ------
    DataError
        If there is no map, or no such column.
    """
    places, table = _places(data, color)
    if color not in table:
        known = dict.fromkeys([*table, *(data.columns if isinstance(data, Run) else ())])
        raise DataError(f"there is no column '{color}' to colour by; there are: {', '.join(known)}")
    axes = _panels(1, width=5.0)[0] if ax is None else ax
    left_out = table["fedsc_cluster"].isna().to_numpy() if "fedsc_cluster" in table else None
    draw_map(axes, places, table[color], color, left_out)
    if ax is None:
        make_room(axes.figure)  # type: ignore[arg-type]
    return axes


def composition(run: Run, *, ax: "Axes | None" = None) -> "Axes":
    """Draw which clusters the cells of each lab are in, as shares (labs × clusters).

    Parameters
    ----------
    run
        With labs' files.
    ax
        Drawn on; default: a new figure.

    Raises
    ------
    DataError
        If the run folder holds no labs' files.
    """
    table = run.composition
    if table.empty:
        raise DataError(f"{run.folder} has no labs' files, so nobody here knows their cells")
    axes = _panels(1, width=7.0)[0] if ax is None else ax
    draw_composition(axes, table)
    return axes


def markers(run: Run, *, n_genes: int = 8, axes: "list[Axes] | None" = None) -> "list[Axes]":
    """Draw the best markers of each cluster.

    Parameters
    ----------
    run
        With clusters.
    n_genes
        Genes of each cluster.
    axes
        One for each cluster; default: a new figure.
    """
    table = run.markers
    panels = _panels(table["cluster"].nunique(), width=2.6) if axes is None else list(axes)
    draw_markers(panels, table, n_genes)
    return panels


def _panels(n: int, width: float) -> "list[Axes]":
    import matplotlib.pyplot as plt

    columns = min(n, 4)
    rows = -(-n // columns)
    size = (width * columns, plt.rcParams["figure.figsize"][1] * 0.75 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for unused in grid.ravel()[n:]:
        figure.delaxes(unused)
    return list(grid.ravel()[:n])


def _places(data: "Run | anndata.AnnData", color: str) -> "tuple[np.ndarray, pd.DataFrame]":
    if not isinstance(data, Run):
        if "X_fedsc_umap" not in data.obsm:
            raise DataError("the cells have no obsm['X_fedsc_umap']; fedsc.tl.embed makes it")
        return np.asarray(data.obsm["X_fedsc_umap"]), data.obs
    return data.places(*([] if color == "lab" else [color]))
