"""Figures, as matplotlib ``Figure`` objects: nothing is shown, saved or kept in global state."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def run_curves(rows: list[dict[str, Any]], alpha: float | None) -> "Figure":
    """Draw a run's loss, divergence d and share μ of local weights, a line per lab.

    Parameters
    ----------
    rows
        Lines of ``metrics.jsonl``.
    alpha
        Radius of the pull, drawn across the divergences; ``None`` for other pulls.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    trained = [row for row in rows if "loss" in row]
    labs = sorted({row["lab"] for row in trained})
    titles = {"loss": "loss", "d": "divergence d from the global model", "mu": "local share μ"}
    for axis, (figures, title) in zip(axes, titles.items(), strict=True):
        for i, lab in enumerate(labs):
            points = [
                (row["round"], row[figures])
                for row in trained
                if row["lab"] == lab and row[figures] is not None
            ]
            axis.plot(
                *zip(*points, strict=True) if points else ((), ()),
                label=lab,
                color=COLOURS[i % len(COLOURS)],
                linestyle=LINES[i % len(LINES)],
            )
        axis.set(xlabel="round", title=title)
    if alpha is not None:
        axes[1].axhline(alpha, color="black", linewidth=0.8, linestyle=":")
        axes[1].annotate("α", (0, alpha), xytext=(3, 3), textcoords="offset points")
    if len(labs) <= 8:
        axes[0].legend(fontsize="small")
    return figure


def embedding_map(embedding: np.ndarray, groups: dict[str, np.ndarray], seed: int) -> "Figure":
    """Draw cells in two dimensions (t-SNE), one panel per way to colour them.

    Parameters
    ----------
    embedding
        float (cells, dimensions).
    groups
        Title of the panel to the group of every cell, str (cells,).
    seed
        Of the t-SNE.
    """
    from matplotlib.figure import Figure

    flat = tsne(embedding, seed)
    figure = Figure(figsize=(5.5 * len(groups), 4.5), layout="constrained")
    for axes, (title, group) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
    ):
        scatter_groups(axes, flat, group)
        axes.set(title=title)
        axes.legend(fontsize="x-small", markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def tsne(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Lay cells out in two dimensions by t-SNE, float32 (cells, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(embedding) - 1) / 3)
    # One thread: its many tiny parallel loops wait for each other where cores are shared.
    with threadpool_limits(limits=1):
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embedding)
    return np.asarray(flat)


def scatter_groups(axes: "Axes", flat: np.ndarray, group: np.ndarray) -> None:
    """Scatter cells, a colour and a marker per group.

    Parameters
    ----------
    axes
        Drawn on; ticks are taken away, the legend is the caller's.
    flat
        Coordinates, float (cells, 2).
    group
        Group of every cell, str (cells,).
    """
    for i, name in enumerate(sorted(set(group), key=lambda n: (len(n), n))):
        here = flat[group == name]
        axes.scatter(
            here[:, 0],
            here[:, 1],
            s=6,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            marker="osD^vPX*"[i // len(COLOURS) % 8],
            linewidths=0,
        )
    axes.set(xticks=[], yticks=[])


# Okabe & Ito's colours, told apart under colour blindness; lines and markers vary too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#555555")
LINES = ("-", "--", "-.", ":")
