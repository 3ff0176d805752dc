"""Cells in two dimensions, coloured by a group or a number."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.plots.style import GROUP_COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

_MOST_GROUPS = 50  # whole numbers of more values are no names
_FEW = 8  # groups that a legend is enough for
_SHORT, _LONG = 3, 32  # letters of a name that fits on its cells, and of one that is cut off
_LINE = 1.6  # height of a line of a legend, of its letters


def tsne(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Lay cells out in two dimensions by t-SNE, float32 (cells, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(embedding) - 1) / 3)
    # One thread: its many tiny parallel loops wait for each other where cores are shared.
    with threadpool_limits(limits=1):
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embedding)
    return np.asarray(flat)


def embedding_map(places: np.ndarray, values: "Mapping[str, pd.Series | np.ndarray]") -> "Figure":
    """Draw cells in two dimensions, one panel per way to colour them.

    Parameters
    ----------
    places
        float (cells, 2).
    values
        Title of the panel to the value of every cell, as of :func:`draw_map`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(values), 4.8), layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (title, of_cells) in zip(panels, values.items(), strict=True):
        draw_map(axes, places, of_cells, title)
    make_room(figure)
    return figure


def draw_map(
    axes: "Axes",
    places: np.ndarray,
    values: "pd.Series | np.ndarray",
    title: str,
    left_out: np.ndarray | None = None,
) -> None:
    """Scatter cells: numbers with a bar of colours, groups with names.

    Names of up to 40 groups stand beside the axes, in columns; :func:`make_room` widens a figure
    for them. Short names of more than 8 groups stand on their cells too; of more than 40 groups
    all names stand there alone, since colours come again.

    Parameters
    ----------
    axes
        Drawn on.
    places
        float (cells, 2).
    values
        Of every cell, (cells,). Numbers that are not whole, or of more than 50 values, are drawn
        as such; all else names a group. Of a categorical all categories have a colour, also those
        that no cell is of: so two pictures agree. Cells without a value are grey.
    title
        What the values are.
    left_out
        Cells that count in no group, bool (cells,); they are grey. ``None`` = none.
    """
    import pandas as pd
    from matplotlib.patheffects import withStroke

    column = pd.Series(values).reset_index(drop=True)
    left = np.zeros(len(places), dtype=bool) if left_out is None else left_out
    unknown = column.isna().to_numpy() & ~left
    known = ~(left | unknown)
    column, shown, names = column[known], places[known], []
    if _are_numbers(column):
        points = _scatter(axes, shown, _size(len(shown)), c=column)
        axes.figure.colorbar(points, ax=axes)
        axes.set(xticks=[], yticks=[])
    else:
        if isinstance(column.dtype, pd.CategoricalDtype):
            of_all = _names(pd.Series(column.cat.categories))
            group, names = of_all[column.cat.codes], list(of_all)
        else:
            group = _names(column)
            names = _in_order(group)
        scatter_groups(axes, shown, group, names)
    beside = 0 < len(names) <= len(GROUP_COLOURS)
    handles = list(axes.get_legend_handles_labels()[0]) if beside else []
    for name, cells in (("left out", left), ("no value", unknown)):
        if cells.any():
            grey = {"label": name, "color": "#cccccc", "zorder": 0.5}
            handles.append(_scatter(axes, places[cells], _size(len(places)), **grey))
    axes.set_title(f"{title} ({np.count_nonzero(~left):,} cells)")
    axes.spines[:].set_visible(False)
    if handles:
        _legend(axes, handles, beside)
    if beside and (len(names) <= _FEW or max(map(len, names)) > _SHORT):
        return
    for name in (name for name in names if (group == name).any()):
        x, y = np.median(shown[group == name], axis=0)
        outline = withStroke(linewidth=2.5, foreground="white")
        axes.text(x, y, name, ha="center", va="center", fontsize="small", path_effects=[outline])


def _legend(axes: "Axes", handles: "Sequence[Artist]", beside: bool) -> None:
    """Name groups beside the axes, in as many columns as its height asks for, or on them."""
    from matplotlib import font_manager

    place: dict[str, Any] = {}
    if beside:
        size = font_manager.FontProperties(size="small").get_size_in_points()
        inches = axes.get_window_extent().height / axes.figure.dpi
        columns = -(-len(handles) // max(1, int(72 * inches / (_LINE * size))))
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": columns}
    names = [_cut_off(str(handle.get_label())) for handle in handles]
    legend = axes.legend(handles, names, frameon=False, fontsize="small", **place)
    for handle in legend.legend_handles:
        handle.set_sizes([36.0])  # type: ignore[union-attr]


def _cut_off(name: str) -> str:
    return name if len(name) <= _LONG else f"{name[: _LONG - 1]}…"


def make_room(figure: "Figure") -> None:
    """Widen a figure of panels in one row by the legends beside them, so no map is narrower."""
    legends = [axes.get_legend() for axes in figure.axes]
    widths = [legend.get_window_extent().width for legend in legends if legend is not None]
    figure.set_figwidth(figure.get_figwidth() + sum(widths) / figure.dpi)


def scatter_groups(
    axes: "Axes", flat: np.ndarray, group: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Scatter cells, a colour per group, of more than 40 a marker too; the more cells, the smaller.

    Parameters
    ----------
    axes
        Drawn on; ticks are taken away, the legend is the caller's.
    flat
        Coordinates, float (cells, 2).
    group
        Group of every cell, str (cells,).
    names
        All groups, in the order of the colours; default: those of the cells.
    """
    size = _size(len(flat))
    names, present = names or _in_order(group), set(group)
    if len(names) <= len(
        GROUP_COLOURS
    ):  # all at once, in no order, or the last group hides the others
        colour_of = dict(zip(names, GROUP_COLOURS, strict=False))
        mixed = np.random.default_rng(0).permutation(len(flat))
        colours = [colour_of[group[i]] for i in mixed]
        _scatter(axes, flat[mixed], size, c=colours)
        for name in filter(present.__contains__, names):
            axes.scatter([], [], s=size, label=name, color=colour_of[name], linewidths=0)
    else:
        for i, name in enumerate(names):
            if name not in present:
                continue
            _scatter(
                axes,
                flat[group == name],
                size,
                label=name,
                color=GROUP_COLOURS[i % len(GROUP_COLOURS)],
                marker="osD^vPX*"[i // len(GROUP_COLOURS) % 8],
            )
    axes.set(xticks=[], yticks=[])


def _scatter(axes: "Axes", flat: np.ndarray, size: float, **look: Any) -> "PathCollection":
    x, y = flat.T
    return axes.scatter(x, y, s=size, linewidths=0, rasterized=True, **look)


def _size(n_cells: int) -> float:
    """Give the size of a cell, points squared."""
    return float(np.clip(30_000 / max(n_cells, 1), 1.5, 30))


def _in_order(group: np.ndarray) -> list[str]:
    """Name groups as a person counts: 2 before 10."""
    return sorted(set(group), key=lambda name: (len(name) if name.isdigit() else 0, name))


def _names(column: "pd.Series") -> np.ndarray:
    """Name groups, object (n,); whole numbers without a point."""
    named: np.ndarray = column.convert_dtypes().astype(str).to_numpy(dtype=object)
    return named


def _are_numbers(column: "pd.Series") -> bool:
    """Tell measurements from names of groups."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_bool_dtype(column.dtype) or not is_numeric_dtype(column.dtype):
        return False
    return bool((column % 1 != 0).any() or column.nunique() > _MOST_GROUPS)
