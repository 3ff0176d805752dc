"""Which parts of the gene matrix mask-sc looks at."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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
