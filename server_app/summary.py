"""The last lines of a run's log."""

from pathlib import Path
from typing import Any


def summary(scores: dict[str, Any], folder: Path) -> list[str]:
    """Say in the last lines how the run went and what can be done next."""
    lines = _lines("scores", scores)
    if floor := scores["floor"]:
        lines += _lines("floor (no training)", floor)
    return [*lines, f"run folder: {folder}"]


def _lines(what: str, scores: dict[str, Any]) -> list[str]:
    integrated = scores["pooled_integrated"] is not None
    ways = {"graph": "graph", "kmeans": "kmeans", "pooled": "pooled"}
    if integrated:  # only the papers' score is of the embedding as it was
        ways = {**ways, "pooled": "pooled, before integration", "pooled_integrated": "pooled"}
    return [f"{what}, {words}: {_in_words(scores[way])}" for way, words in ways.items()]


def _in_words(scores: dict[str, Any] | None) -> str:
    named = {"ari": "ARI", "nmi": "NMI", "clusters": "clusters"}
    words = [
        f"{words} {value if isinstance(value, int) else f'{value:.4f}'}"
        for name, words in named.items()
        if scores and (value := scores.get(name)) is not None
    ]
    return ", ".join(words) or "none"
