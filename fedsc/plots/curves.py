"""A run's loss, divergence and share of local weights over the rounds."""

from typing import TYPE_CHECKING

from fedsc.plots.style import COLOURS, DISTINCT, LINES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
