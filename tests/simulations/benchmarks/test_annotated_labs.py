"""Types in labs without annotation, counted by hand on three labs."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from fedsc.errors import DataError
from simulations.benchmarks.annotated_labs import measure

# Of each lab: cells by type and cluster.
LABS = {
    "A": {("x", "0"): 20, ("y", "1"): 20},
    "B": {("x", "0"): 15, ("y", "0"): 5, ("y", "1"): 20},
    "C": {("x", "0"): 20, ("z", "2"): 10},
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"label-key": "kind"}))
    (tmp_path / "labs").mkdir()
    for lab, counts in LABS.items():
        cells = [pair for pair, n in counts.items() for _ in range(n)]
        obs = pd.DataFrame(cells, columns=["kind", "fedsc_cluster"], dtype="category")
        obs.index = obs.index.astype(str)
        whole = anndata.AnnData(np.zeros((len(obs), 1), dtype=np.float32), obs)
        whole.write_h5ad(tmp_path / "labs" / f"{lab}.h5ad")
    return tmp_path


def test_every_choice_of_annotated_labs_counts_the_cells_of_the_others(run):
    one, two = measure(run)
    assert (one["annotated"], one["choices"]) == (1, 3)
    # A alone names 0 and 1, B the same, C 0 and 2, of which the others have only 0.
    assert one["named"] == pytest.approx(np.mean([60 / 70, 60 / 70, 40 / 80]))
    assert one["right"] == pytest.approx(np.mean([55 / 60, 60 / 60, 35 / 40]))
    # Without C nobody names 2.
    assert two["named"] == pytest.approx(np.mean([20 / 30, 1, 1]))
    assert two["right"] == pytest.approx(np.mean([1, 35 / 40, 1]))


def test_labs_without_types_are_refused_in_words(run):
    (run / "config.json").write_text(json.dumps({"label-key": "type"}))
    with pytest.raises(DataError, match="the cells of A have no column 'type'"):
        measure(run)
