"""What ``fedsc check`` says of a file, and of the labs of a folder."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import typer

from fedsc.data.genes import How, agree, case_note
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.kind import KIND_NAMES
from fedsc.data.reading.read import Examination, examine
from fedsc.errors import DataError
from fedsc.federated.annotation import alike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH = re.compile(
    r"batch|donor|sample|patient|subject|individual|mouse|lab(?!el)|site|cent(er|re)|hospital|study|"
    r"dataset|protocol|technology|chemistry|platform|condition|treatment|library|lane|plate|stage",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"type|label|cluster|annot|louvain|leiden|class|identity|ontology|^Y$", re.IGNORECASE
)
_MOST_GROUPS = 200


def check_file(file: Path, how: ReadAs, batch_key: str = "") -> bool:
    """Say what is in a file, and whether it can be used.

    Parameters
    ----------
    file
        Only read.
    how
        Which of its values, and under which names.
    batch_key
        Column of ``obs`` with batches; ``""`` = none.
    """
    examination = examine(file, how, batch_key)
    for line in describe(file, examination):
        typer.echo(line)
    return not examination.problems


def check_folder(
    folder: Path,
    how: ReadAs,
    batch_key: str,
    min_cells: int,
    min_shared: int,
    plot: Path | None,
) -> bool:
    """Say what is in every lab's file of a folder and whether they can be joined.

    Parameters
    ----------
    folder
        With a file or a 10x folder per lab.
    how, batch_key
        As for :func:`check_file`, where labs.toml says nothing else.
    min_cells, min_shared
        Fewest cells of a lab, and genes that labs share, as the run will want them.
    plot
        File to draw the overlap of genes to.

    Returns
    -------
    bool
        Whether all can be used.
    """
    from fedsc.data.labs_toml import own_columns, read_as
    from partitioning.simulation import lab_files, not_labs

    labs = {}
    files = lab_files(folder)
    columns = own_columns(folder, files)
    for lab, file in files.items():
        found = examine(file, *read_as(columns[lab], how, batch_key))
        problems = []
        if found.shape is not None and found.shape[0] < min_cells:
            problems.append(f"{found.shape[0]} cells are fewer than min-cells = {min_cells}")
        if problems:
            found = replace(found, problems=(*found.problems, *problems), expression=None)
        for line in describe(file, found):
            typer.echo(line)
        labs[lab] = found
    fine, lines = describe_together(labs, min_shared)
    remarks = [
        not_labs(folder),
        "one lab alone: nothing would be federated" if len(labs) == 1 else "",
    ]
    lines += [("note", remark) for remark in remarks if remark]
    typer.echo("together")
    for name, value in lines:
        typer.echo(f"  {name:<14} {value}")
    genes = {lab: set(map(str, e.expression.genes)) for lab, e in labs.items() if e.expression}
    if plot is not None and genes:
        from fedsc.plots.style import save

        save(overlap_figure(genes), plot)
        typer.echo(f"  {'picture':<14} {plot}")
    return fine


def describe_together(
    labs: Mapping[str, Examination], min_shared: int
) -> tuple[bool, list[tuple[str, str]]]:
    """Say whether labs can be joined, and how.

    Parameters
    ----------
    labs
        What was found in each lab's file.
    min_shared
        Fewest genes that labs share.

    Returns
    -------
    fine, lines
        Whether all of them can be; and pairs of a name and a value.
    """
    usable = {lab: found.expression for lab, found in labs.items() if found.expression is not None}
    lines = [("labs", f"{len(usable)} of {len(labs)} can be used")]
    if not usable:
        return False, lines
    cells = {lab: len(own.cells) for lab, own in usable.items()}
    lines.append(("cells", f"{sum(cells.values()):,}: {_by_lab(cells)}"))
    fine = len(usable) == len(labs)
    kinds: dict[str, list[str]] = {}
    for lab, own in usable.items():
        kinds.setdefault(KIND_NAMES[own.kind], []).append(lab)
    lines.append(("kinds", "; ".join(f"{kind}: {', '.join(of)}" for kind, of in kinds.items())))
    if len(kinds) > 1:
        fine = False
        lines.append(("problem", "labs bring different kinds of values: bring all to one kind"))
    genes = {lab: own.genes for lab, own in usable.items()}
    lines.append(("genes", _by_lab({lab: len(names) for lab, names in genes.items()})))
    shared, refusal = _agreed(genes, "intersection", min_shared)
    every, hopeless = _agreed(genes, "union", min_shared)
    if hopeless:
        return False, [*lines, ("problem", refusal)]
    if refusal:
        shared, _ = _agreed(genes, "intersection", 0)
    lines.append(("shared", f"{shared:,} genes in all labs, {every:,} in any"))
    if note := case_note(genes):
        lines.append(("note", note))
    least = min(map(len, genes.values()))
    lines.append(("advice", _advice(shared, every, least, min_shared if refusal else 0)))
    types = {lab: set(own.labels) - {""} for lab, own in usable.items() if own.labels is not None}
    if types:
        everywhere = set.intersection(*types.values())
        named = ", ".join(sorted(everywhere)) or "none"
        lines.append(("cell types", f"{len(set.union(*types.values()))} in {len(types)} labs"))
        lines.append(("in all of them", named))
        if spellings := alike(sorted(set.union(*types.values()))):
            groups = "; ".join(" = ".join(group) for group in spellings)
            lines.append(("note", f"types that differ in spelling alone: {groups}"))
    return fine, lines


_FEW_SHARED = 2000
"""With fewer genes in all labs, the usual 2000 highly variable ones cannot be chosen."""


def _agreed(genes: Mapping[str, np.ndarray], how: How, min_shared: int) -> tuple[int, str]:
    """Count the genes that labs agree on; where they do not, say why."""
    try:
        return len(agree(genes, how, None, min_shared)), ""
    except DataError as error:
        return 0, str(error)


def _advice(shared: int, every: int, least: int, refused: int) -> str:
    """Say whether to take the genes of all labs or of any.

    Parameters
    ----------
    shared, every
        Genes in all labs, in any.
    least
        Genes of the lab with the fewest.
    refused
        Genes that all labs should share, where they share fewer; else 0.
    """
    if shared == every:
        return "all labs have the same genes: leave genes = intersection"
    if not refused and (shared >= _FEW_SHARED or shared >= 0.8 * least):
        return "genes = intersection: enough genes are shared, and each is measured everywhere"
    limit = f", fewer than min-shared-genes = {refused}" if refused else ""
    return (
        f"genes = union: only {shared:,} genes are in all labs{limit}. A gene that a lab did not "
        "measure counts as average there; a lab with few of the chosen genes is told in the report"
    )


def overlap_figure(genes: Mapping[str, set[str]]) -> "Figure":
    """Draw how many genes each pair of labs shares, by exact name.

    Parameters
    ----------
    genes
        Names by lab.
    """
    from matplotlib.figure import Figure

    labs = list(genes)
    counts = np.array([[len(genes[a] & genes[b]) for b in labs] for a in labs])
    side = 2.5 + 0.6 * len(labs)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(counts, cmap="viridis", vmin=0)
    axes.set_xticks(range(len(labs)), labs, rotation=45, ha="right")
    axes.set_yticks(range(len(labs)), labs)
    axes.set_title("Genes that two labs share")
    if len(labs) <= _MOST_NUMBERS:
        middle = counts.max() / 2
        for (i, j), count in np.ndenumerate(counts):
            colour = "black" if count > middle else "white"
            axes.text(j, i, f"{count:,}", ha="center", va="center", color=colour, fontsize="small")
    figure.colorbar(drawn, ax=axes, label="genes")
    return figure


_MOST_NUMBERS = 12  # labs above which numbers in the picture cannot be read


def _by_lab(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{lab} {number:,}" for lab, number in numbers.items())


def describe(file: Path, examination: Examination) -> list[str]:
    """Put an examination into lines: the verdict, then a name and a value each."""
    usable = examination.expression is not None
    rows = [("problem", problem) for problem in examination.problems]
    if examination.shape is not None:
        rows += [("cells", f"{examination.shape[0]:,}"), ("genes", f"{examination.shape[1]:,}")]
    if examination.kind is not None:
        rows.append(("kind", KIND_NAMES[examination.kind]))
    if examination.expression is not None:
        sums = examination.expression.matrix.sum(axis=1, dtype=np.float64)
        per_cell = "library size" if examination.kind == "counts" else "sum per cell"
        rows.append((per_cell, _quantiles(np.asarray(sums).ravel())))
        labels = examination.expression.labels
        if labels is not None:
            rows.append(("labels", f"{examination.expression.label_key}: {_tally(labels)}"))
    if examination.obs is not None:
        label_columns, batch_columns = candidates(examination.obs)
        rows.append(("label columns", _columns(examination.obs, label_columns)))
        rows.append(("batch columns", _columns(examination.obs, batch_columns)))
    rows += [("note", note) for note in examination.notes]
    verdict = f"{file}: " + ("can be used" if usable else "cannot be used")
    return [verdict, *(f"  {name:<14} {value}" for name, value in rows)]


def candidates(obs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Guess which columns hold cell types and which hold batches, donors or labs.

    A column counts when it groups the cells: at least two values, far fewer than cells. Numbers
    count only when the column's name says that they are names.

    Returns
    -------
    labels, batches
        Names of columns, those named like labels first.
    """
    labels, batches = [], []
    for column in map(str, obs.columns):
        groups = obs[column].nunique()
        if not 2 <= groups <= min(_MOST_GROUPS, max(2, len(obs) // 2)):
            continue
        if _BATCH.search(column) and not _LABEL.search(column):
            batches.append(column)
        elif _LABEL.search(column) or not pd.api.types.is_numeric_dtype(obs[column].dtype):
            labels.append(column)
    return sorted(labels, key=lambda column: not _LABEL.search(column)), batches


def _quantiles(sums: np.ndarray) -> str:
    names = ("min", "5 %", "median", "95 %", "max")
    values = np.quantile(sums, (0, 0.05, 0.5, 0.95, 1))
    return ", ".join(f"{name} {value:,.0f}" for name, value in zip(names, values, strict=True))


def _tally(labels: np.ndarray) -> str:
    counts = pd.Series(labels[labels != ""]).value_counts()
    shown = [f"{label} {count}" for label, count in counts.head(50).items()]
    shown += [f"… ({len(counts)} in all)"] if len(counts) > 50 else []
    unlabelled = len(labels) - int(counts.sum())
    return ", ".join(shown) + (f"; no label: {unlabelled}" if unlabelled else "")


def _columns(obs: pd.DataFrame, columns: list[str]) -> str:
    return ", ".join(f"{column} ({obs[column].nunique()})" for column in columns) or "none found"
