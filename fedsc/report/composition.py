"""Which clusters the cells of each lab are in."""

from fedsc.plots.bars import draw_composition
from fedsc.report.parts import MOST_LABS, Picture, Section, Table, first_labs, picture
from fedsc.results import Run


def composition(run: Run) -> Section | None:
    """Count cells by lab and cluster, or say why nobody here can."""
    counts = run.composition
    missing = ", ".join(run.record.get("without_files", ()))
    lacks = [f"Without a file: {missing}. The warnings say why, and what to do."] if missing else []
    if counts.empty and not run.finished:
        return None
    if counts.empty:
        return Section("Labs and clusters", [_why(run, "Each other" if missing else "Each")], lacks)
    head = ["lab", "cells", *(f"cluster {cluster}" for cluster in counts.columns)]
    rows = [
        (lab, f"{row.sum():,}", *(f"{n:,}" for n in row))
        for lab, row in counts.head(MOST_LABS).iterrows()
    ]
    table = Table(
        f"Cells of each lab by cluster{first_labs(len(counts))}", head, rows, numbers=head[1:]
    )
    return Section(
        "Labs and clusters",
        ["A cluster that a single lab holds is a type only that lab has, or its technique."],
        lacks,
        pictures=[_bars(run)],
        tables=[table],
    )


def _why(run: Run, each: str) -> str:
    """Say why the cells of the labs are not here."""
    if run.of_real_labs:
        return (
            "The cells of each lab by cluster are not known here: only sums over all labs came "
            f"to the server. {each} lab has them in its own file and its own report."
        )
    if run.options.get("files", True):
        return "The labs' files are not in the run folder, so the cells by cluster are not known."
    return (
        "The run was made without labs' files (files = false), so the cells of each lab by cluster "
        "were not kept."
    )


def _bars(run: Run) -> Picture:
    from matplotlib.figure import Figure

    counts = run.composition.head(MOST_LABS)
    figure = Figure(figsize=(6.5, 1.4 + 0.35 * len(counts)), layout="constrained")
    draw_composition(figure.subplots(), counts)
    return picture(
        figure,
        "Bars: share of each cluster among the cells of each lab. The table below has the numbers.",
        "Share of each cluster among a lab's cells. Numbers in the bars are clusters.",
    )
