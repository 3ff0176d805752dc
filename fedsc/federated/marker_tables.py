"""Markers as people and scanpy read them."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsc.federated.markers import Markers

_CSV_COLUMNS = (
    "cluster",
    "gene",
    "score",
    "pval",
    "pval_adj",
    "logfoldchange",
    "pts",
    "pts_rest",
    "labs_supporting",
    "labs_measured",
)


def as_csv(markers: Markers, names: Sequence[str] | np.ndarray) -> str:
    """Write the table, a row for each cluster and gene, the best gene of cluster 0 first.

    Parameters
    ----------
    markers
        As many genes as are wanted.
    names
        Of the vocabulary, (V,).

    Returns
    -------
    str
        Columns as in :class:`Markers`, in the singular; numbers in full, empty where NaN.
    """
    columns = (
        markers.scores,
        markers.pvals,
        markers.pvals_adj,
        markers.logfoldchanges,
        markers.pts,
        markers.pts_rest,
        markers.labs_supporting,
        markers.labs_measured,
    )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_CSV_COLUMNS)
    for cluster, genes in enumerate(markers.genes):
        numbers = zip(*(column[cluster].tolist() for column in columns), strict=True)
        for gene, row in zip(genes, numbers, strict=True):
            rows.writerow([cluster, names[gene], *("" if math.isnan(x) else x for x in row)])
    return text.getvalue()


def scanpy_layout(
    markers: Markers, names: Sequence[str] | np.ndarray, groupby: str = "fedsc_cluster"
) -> dict[str, Any]:
    """Lay the table out as scanpy keeps it in ``uns["rank_genes_groups"]``.

    ``sc.pl.rank_genes_groups`` and ``sc.get.rank_genes_groups_df`` read it there, also from an
    ``.h5ad``. scanpy's keys, and ``labs_supporting`` and ``labs_measured`` in the same form.

    Parameters
    ----------
    markers
        Usually the first hundred genes or so: these stand in each lab's file.
    names
        Of the vocabulary as the file names them, (V,).
    groupby
        Column of ``obs`` with the clusters, whose categories are ``"0"``, ``"1"``, …
    """
    import pandas as pd

    names = np.asarray(names, dtype=object)
    groups = [str(cluster) for cluster in range(len(markers.genes))]

    def records(values: np.ndarray, dtype: str) -> np.ndarray:
        return np.rec.fromarrays(list(values), dtype=[(group, dtype) for group in groups])

    def shares(values: np.ndarray) -> pd.DataFrame:
        columns = {
            group: pd.Series(values[i], index=markers.genes[i]) for i, group in enumerate(groups)
        }
        table = pd.DataFrame(columns).sort_index()
        return table.set_index(names[table.index])

    return {
        "params": {
            "groupby": groupby,
            "reference": "rest",
            "method": "t-test",
            "use_raw": False,
            "corr_method": "benjamini-hochberg",
        },
        "names": records(names[markers.genes], "O"),
        "scores": records(markers.scores, "f4"),
        "pvals": records(markers.pvals, "f8"),
        "pvals_adj": records(markers.pvals_adj, "f8"),
        "logfoldchanges": records(markers.logfoldchanges, "f4"),
        "pts": shares(markers.pts),
        "pts_rest": shares(markers.pts_rest),
        "labs_supporting": records(markers.labs_supporting, "i8"),
        "labs_measured": records(markers.labs_measured, "i8"),
    }
