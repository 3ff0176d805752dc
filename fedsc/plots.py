"""Figures, as matplotlib ``Figure`` objects: nothing is shown or kept in global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsc.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle


def attention_map(
    attention: np.ndarray,
    places: np.ndarray,
    side: int,
    groups: np.ndarray,
    *,
    examples: int = 3,
) -> "Figure":
    """Draw which parts of the gene matrix mask-sc looks at (mask-sc Fig. 5).

    One row per group: the mean over its cells, then single cells. All panels share one colour
    scale, which ends where 99 % of the values do. Padding is white.

    Parameters
    ----------
    attention
        Share of attention a cell pays to each patch, float (cells, patches); mask-sc's
        ``extras["attention_class"]`` or ``extras["attention_mean"]``.
    places
        Coordinates of the patches, int (patches, 2), or (patches, 1) for patches in a row;
        ``extras["patch_places"]``.
    side
        Rows and columns of the gene matrix; not looked at for patches in a row.
    groups
        Cell type or cluster of every cell, (cells,).
    examples
        Single cells per group: the first ones in the order of the cells.

    Returns
    -------
    Figure
        Save it with ``figure.savefig(path)``.
    """
    from matplotlib.figure import Figure

    from fedsc.models.patches import on_grid

    in_a_row = places.shape[1] == 1
    images = attention[:, None, :] if in_a_row else on_grid(attention, places, side)
    names = np.unique(groups)
    highest = float(np.quantile(attention, 0.99))  # one patch of one cell would darken all others
    figure = Figure(figsize=(1.8 * (1 + examples), 1.8 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1 + examples, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        members = images[groups == name]
        panels = [members.mean(axis=0), *members[:examples]]
        for axis, panel in zip(row, panels, strict=False):
            drawn = axis.imshow(panel, vmin=0, vmax=highest, cmap="viridis")
            axis.set_aspect("auto" if in_a_row else "equal")
            axis.set(xticks=[], yticks=[])
        for axis in row[len(panels) :]:
            axis.axis("off")
        row[0].set_ylabel(f"{name} ({len(members)} cells)")
    axes[0, 0].set_title("mean")
    for i in range(examples):
        axes[0, 1 + i].set_title(f"cell {i + 1}")
    figure.colorbar(drawn, ax=axes, shrink=0.6, label="share of attention")
    return figure


CURVES = {
    "loss": "Loss",
    "d": "Divergence d from the global model",
    "mu": "Share μ of a lab's own weights",
}
"""What a run's curves show, by the column of ``metrics.jsonl``."""


def run_curves(history: "pd.DataFrame", alpha: float | None) -> "Figure":
    """Draw a run's loss, divergence d and share μ of local weights over the rounds.

    Parameters
    ----------
    history
        Lines of ``metrics.jsonl``, as :attr:`fedsc.results.Run.history` gives them.
    alpha
        Radius of the pull, drawn across the divergences; ``None`` for other pulls.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    draw_curves(list(figure.subplots(1, 3)), history, alpha)
    return figure


def draw_curves(panels: "list[Axes]", history: "pd.DataFrame", alpha: float | None) -> None:
    """Draw loss, d and μ on three axes: a line a lab, or above 8 labs their median among them.

    Parameters
    ----------
    panels
        Three axes.
    history, alpha
        As for :func:`run_curves`.
    """
    from matplotlib.ticker import MaxNLocator

    trained = history.reindex(columns=["round", "lab", *CURVES]).dropna(subset="loss")
    labs = sorted(trained["lab"].unique())
    many = len(labs) > DISTINCT
    for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
        known = trained.dropna(subset=name).astype({name: float})
        for i, lab in enumerate(labs):
            points = known[known["lab"] == lab]
            axes.plot(
                points["round"],
                points[name],
                label=lab,
                color="#999999" if many else COLOURS[i % len(COLOURS)],
                linestyle="-" if many else LINES[i % len(LINES)],
                linewidth=0.6 if many else None,
                marker="o" if len(points) == 1 else None,
            )
        if many:
            median = known.groupby("round")[name].median()
            axes.plot(median.index, median, color=COLOURS[0], linewidth=2.5)
        axes.set(xlabel="round", title=title)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean over a lab's cells")
    panels[1].set_ylabel("L2 norm")
    panels[2].set(ylabel="0 = global model, 1 = own", ylim=(-0.03, 1.03))
    if alpha is not None:
        panels[1].axhline(alpha, color="black", linewidth=0.8, linestyle=":")
        panels[1].annotate("α", (0, alpha), xytext=(3, 3), textcoords="offset points")
    if many:
        panels[0].annotate(
            f"blue: median of {len(labs)} labs; grey: each", (0.02, 0.02), xycoords="axes fraction"
        )
    elif labs:
        panels[0].legend(fontsize="small", frameon=False)


def save(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure, in the format that the file's ending names, whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), dpi=dpi)


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

    figure = Figure(figsize=(6 * len(values), 4.8), layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (title, of_cells) in zip(panels, values.items(), strict=True):
        draw_map(axes, places, of_cells, title)
    return figure


def draw_map(
    axes: "Axes",
    places: np.ndarray,
    values: "pd.Series | np.ndarray",
    title: str,
    left_out: np.ndarray | None = None,
) -> None:
    """Scatter cells: numbers with a bar of colours, groups with names.

    Names of up to 8 groups stand beside the cells, of more on them.

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
        group = _names(column)
        names = _in_order(group)
        if isinstance(column.dtype, pd.CategoricalDtype):
            names = list(_names(pd.Series(column.cat.categories)))
        scatter_groups(axes, shown, group, names)
    few = 0 < len(names) <= DISTINCT
    handles = list(axes.get_legend_handles_labels()[0]) if few else []
    for name, cells in (("left out", left), ("no value", unknown)):
        if cells.any():
            grey = {"label": name, "color": "#cccccc", "zorder": 0.5}
            handles.append(_scatter(axes, places[cells], _size(len(places)), **grey))
    axes.set_title(f"{title} ({np.count_nonzero(~left):,} cells)")
    axes.spines[:].set_visible(False)
    if handles:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if few else {}
        legend = axes.legend(handles=handles, frameon=False, fontsize="small", **beside)
        for handle in legend.legend_handles:
            handle.set_sizes([36.0])  # type: ignore[union-attr]
    for name in () if few else (name for name in names if (group == name).any()):
        x, y = np.median(shown[group == name], axis=0)
        outline = withStroke(linewidth=2.5, foreground="white")
        axes.text(x, y, name, ha="center", va="center", fontsize="small", path_effects=[outline])


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
            hatch=_HATCHES[i // len(COLOURS) % len(_HATCHES)],
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


def tsne(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Lay cells out in two dimensions by t-SNE, float32 (cells, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(embedding) - 1) / 3)
    # One thread: its many tiny parallel loops wait for each other where cores are shared.
    with threadpool_limits(limits=1):
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embedding)
    return np.asarray(flat)


def scatter_groups(
    axes: "Axes", flat: np.ndarray, group: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Scatter cells, a colour and a marker per group; the more cells, the smaller.

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
    if len(names) <= DISTINCT:  # all at once, in no order, or the last group hides the others
        colour_of = {name: COLOURS[i] for i, name in enumerate(names)}
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
                color=COLOURS[i % len(COLOURS)],
                marker="osD^vPX*"[i // len(COLOURS) % 8],
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


# Okabe & Ito's colours, told apart under colour blindness; lines, markers and hatches vary too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#555555")
LINES = ("-", "--", "-.", ":")
DISTINCT = len(COLOURS)
"""Groups above this number have their names on the picture, since colours come again."""

_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
_MOST_GROUPS = 50  # whole numbers of more values are no names
_SHOWN = 0.05  # share of a bar that has room for a name
