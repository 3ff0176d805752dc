"""How right the suggested cell types are in labs that are not annotated, by how many others are.

``python -m simulations.benchmarks.annotated_labs RUN…`` reads finished simulated runs whose labs
are all annotated. For every choice of one, two, … labs it names the clusters by the cells of these
labs alone, as a run does, and looks at the cells of the others: how many get a type, and how many
of those the right one. Clusters do not depend on labels, so a run serves all choices.
"""

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedsc.data.groups import group_names
from fedsc.errors import DataError
from fedsc.federated.annotation import UNKNOWN, types_from_counts
from fedsc.results import load


def measure(folder: Path) -> list[dict[str, Any]]:
    """Measure one run.

    Parameters
    ----------
    folder
        Of a finished simulated run whose labs have files and cell types.

    Returns
    -------
    list
        For each number of annotated labs ``annotated``, ``choices`` of them, and of the other labs'
        cells, mean over choices: ``named``, the share that gets a type; ``right``, the share of
        these whose type is the true one.

    Raises
    ------
    DataError
        If the labs have no cell types.
    """
    run = load(folder)
    label_key = str(run.options["label-key"]) or "cell_type"
    tables = {}
    for lab in run.labs:
        obs = run.labs[lab].obs
        if label_key not in obs:
            raise DataError(f"{folder}: the cells of {lab} have no column '{label_key}'")
        of_cells = group_names(obs[label_key])
        known = of_cells != ""
        found = obs.loc[known, "fedsc_cluster"].astype(str).to_numpy()
        tables[lab] = pd.crosstab(of_cells[known], found)
    types = sorted(set().union(*(table.index for table in tables.values())))
    clusters = sorted(set().union(*(table.columns for table in tables.values())))
    counts = {
        lab: table.reindex(index=types, columns=clusters, fill_value=0).to_numpy(dtype=np.int64)
        for lab, table in tables.items()
    }
    return [_of_choices(counts, types, annotated) for annotated in range(1, len(counts))]


def _of_choices(counts: dict[str, np.ndarray], types: list[str], annotated: int) -> dict[str, Any]:
    named, right = [], []
    choices = list(combinations(counts, annotated))
    for chosen in choices:
        found = types_from_counts(np.sum([counts[lab] for lab in chosen], axis=0), types).names
        others = np.sum([own for lab, own in counts.items() if lab not in chosen], axis=0)
        known = found != UNKNOWN
        total = others[:, known].sum()
        agree = sum(others[types.index(name), c] for c, name in enumerate(found) if name in types)
        named.append(total / others.sum())
        right.append(agree / total if total else np.nan)
    return {
        "annotated": annotated,
        "choices": len(choices),
        "named": float(np.mean(named)),
        "right": float(np.nanmean(right)),
    }


def main() -> None:
    """Print a line of JSON for every run and number of annotated labs."""
    for name in sys.argv[1:]:
        for found in measure(Path(name)):
            print(json.dumps({"run": Path(name).name, **found}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
