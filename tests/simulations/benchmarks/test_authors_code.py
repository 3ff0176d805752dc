"""The authors' code is run as it lies in a clone; here a stand-in says what it was given."""

from pathlib import Path

import pandas as pd
import pytest

from fedsc.data.synthetic import synthesize
from fedsc.errors import DataError
from simulations.benchmarks import authors_code

DOCS = Path(__file__).parents[3] / "docs" / "results"

# As old as the authors' own: scanpy.api, torchvision, numpy.int.
TRAIN = """
import numpy as np
import scanpy.api as sc
import torchvision

def preprocess(X):
    X = np.ceil(X).astype(np.int)
    X /= 2.0
    return X

def run(X, cluster_number, dataset, cluster_methods, save_pred, use_cpu):
    assert cluster_methods == ["KMeans"] and save_pred and use_cpu
    drawn = np.random.randint(0, cluster_number, len(X))
    return {"kmeans_pred": drawn}
"""


@pytest.mark.slow
@pytest.mark.long
def test_both_are_scored_on_the_same_cells_and_rows_are_kept(tmp_path):
    clone, cells, rows = tmp_path / "clone", tmp_path / "cells.h5ad", tmp_path / "rows.csv"
    clone.mkdir()
    (clone / "train.py").write_text(TRAIN)
    synthesize(300, 80, 3, 1, 0).write_h5ad(cells)
    asked = ["contrastive-sc", str(clone), str(cells), "--label-key", "cell_type"]
    asked += ["--seeds", "1", "-o", str(rows)]
    authors_code.main(asked)
    found = pd.read_csv(rows).set_index("code")
    assert set(found.index) == {"theirs", "ours"}
    assert abs(found.loc["theirs", "ari"]) < 0.2  # drawn at random
    assert found.loc["ours", "ari"] > 0.5
    before = rows.read_bytes()
    authors_code.main(asked)  # both are done
    assert rows.read_bytes() == before


def test_a_set_without_cell_types_is_refused_in_words(tmp_path):
    cells = tmp_path / "cells.h5ad"
    synthesize(60, 80, 3, 1, 0).write_h5ad(cells)
    with pytest.raises(DataError, match="no column of cell types"):
        authors_code.measure("contrastive-sc", tmp_path, str(cells), "", 0, "ours")


def test_the_page_shows_the_rows():
    page = (DOCS / "authors-code.md").read_text(encoding="utf-8")
    rows = pd.read_csv(DOCS / "authors-code.csv")
    for (dataset, code), own in rows.groupby(["dataset", "code"]):
        whose = "authors'" if code == "theirs" else "ours"
        ari, nmi = (f"{100 * own[s].mean():.1f} ± {100 * own[s].std():.1f}" for s in ("ari", "nmi"))
        assert f"| {dataset} | {whose} | {ari} | {nmi} |" in page
