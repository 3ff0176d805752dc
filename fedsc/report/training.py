"""How training went: loss, distance d and share μ of own weights over the rounds."""

import numpy as np
import pandas as pd

from fedsc.plots.curves import CURVES, draw_curves
from fedsc.report.parts import Picture, Section, number, picture
from fedsc.results import Run

_OWN_MODELS = 0.8  # mean μ above which labs keep models of their own


def training(run: Run) -> Section | None:
    """Draw the curves and say what they mean; ``None`` for a method without rounds."""
    history = run.history
    if history.empty or "loss" not in history:
        return None
    trained = history[history["loss"].notna()]
    last = trained[trained["round"] == trained["round"].max()]
    mu = last["mu"].astype(float).mean()
    loss = np.average(last["loss"].astype(float), weights=last["cells"].astype(float))
    texts = [
        "The loss should fall and then settle. d is how far a lab's weights are from the global "
        "model. μ is the share of its own weights that a lab starts the next round with: near 0 "
        "labs share one model, near 1 they keep their own and learn little from each other.",
        f"In the last round the mean loss over cells was {number(float(loss), 3)} and the mean "
        f"μ of labs {number(mu)}.",
    ]
    if mu > _OWN_MODELS:
        texts.append("Here labs keep their own models: the global model is one of many.")
    return Section("Training", texts, pictures=_curves(history, run.alpha))


def _curves(history: pd.DataFrame, alpha: float | None) -> list[Picture]:
    from matplotlib.figure import Figure

    figures = [Figure(figsize=(4.6, 3.4), layout="constrained") for _ in CURVES]
    draw_curves([figure.subplots() for figure in figures], history, alpha)
    return [
        picture(figure, f"Curves by lab over the rounds: {title}.", f"{title}, by round and lab.")
        for figure, title in zip(figures, CURVES.values(), strict=True)
    ]
