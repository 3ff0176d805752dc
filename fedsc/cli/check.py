"""``fedsc check``: whether a file can be used, and what is in it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fedsc.data.reading.read import Examination

_BATCH = re.compile(
    r"batch|donor|sample|patient|subject|individual|mouse|lab(?!el)|site|cent(er|re)|hospital|study|"
    r"dataset|protocol|technology|chemistry|platform|condition|treatment|library|lane|plate|stage",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"type|label|cluster|annot|louvain|leiden|class|identity|ontology|^Y$", re.IGNORECASE
)
_MOST_GROUPS = 200


def check(
    file: Annotated[Path, typer.Argument(help="File, or a 10x matrix folder.")],
    layer: Annotated[
        str, typer.Option(help="'' = X, 'raw' = adata.raw, else a layer's name.")
    ] = "",
    label_key: Annotated[str, typer.Option(help="Column of obs with cell types.")] = "",
) -> None:
    """Say whether a file can be used, if not why, and what it holds. The file is only read.

    The exit code is 0 if it can be used, else 2.

    **Examples**

    `fedsc check lab.h5ad --label-key cell_type`

    `fedsc check lab.h5ad --layer raw`

    `fedsc check filtered_feature_bc_matrix/`
    """
    from fedsc.data.reading.read import examine

    examination = examine(file, layer=layer, label_key=label_key)
    for line in describe(file, examination):
        typer.echo(line)
    if examination.problems:
        raise typer.Exit(2)


def describe(file: Path, examination: "Examination") -> list[str]:
    """Put an examination into lines: the verdict, then a name and a value each."""
    import numpy as np

    from fedsc.data.reading.kind import KIND_NAMES

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


def candidates(obs: "pd.DataFrame") -> tuple[list[str], list[str]]:
    """Guess which columns hold cell types and which hold batches, donors or labs.

    A column counts when it groups the cells: at least two values, far fewer than cells. Numbers
    count only when the column's name says that they are names.

    Returns
    -------
    labels, batches
        Names of columns, those named like labels first.
    """
    import pandas as pd

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


def _quantiles(sums: "np.ndarray") -> str:
    import numpy as np

    names = ("min", "5 %", "median", "95 %", "max")
    values = np.quantile(sums, (0, 0.05, 0.5, 0.95, 1))
    return ", ".join(f"{name} {value:,.0f}" for name, value in zip(names, values, strict=True))


def _tally(labels: "np.ndarray") -> str:
    import pandas as pd

    counts = pd.Series(labels).value_counts()
    shown = [f"{label} {count}" for label, count in counts.head(50).items()]
    return ", ".join(shown) + (f", … ({len(counts)} in all)" if len(counts) > 50 else "")


def _columns(obs: "pd.DataFrame", columns: list[str]) -> str:
    return ", ".join(f"{column} ({obs[column].nunique()})" for column in columns) or "none found"
