"""Cell types of cells: read the same way by everybody."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines.fitting import resolve_k, score
from fedsc.baselines.method import Fitted
from fedsc.data.expression import Expression
from fedsc.data.groups import group_names
from fedsc.data.reading.validate import label_problems, notes
from fedsc.errors import DataError
from fedsc.options import SplitOptions
from partitioning import partition


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1], ["3", "1"]),
        ([3, None, 1], ["3", "", "1"]),  # a column of floats
        (pd.array([3, None], dtype="Int64"), ["3", ""]),
        (pd.Categorical([3.0, 1.0]), ["3", "1"]),
        (["B", None, "", "1.0", " T"], ["B", "", "", "1.0", " T"]),
        (pd.Categorical(["B", None]), ["B", ""]),
        ([True, False], ["True", "False"]),
        ([], []),
    ],
)
def test_names_of_groups_in_a_column(values, expected):
    assert list(group_names(pd.Series(values))) == expected


@pytest.fixture
def cells() -> Expression:
    """Give 60 cells of two types, of which a third has none."""
    names = np.array([f"c{i}" for i in range(60)], dtype=object)
    obs = pd.DataFrame({"kind": ["", "B", "T"] * 20}, index=names)
    x = csr_matrix(np.eye(60, 3, dtype=np.float32) + 1)
    return Expression(np.array(["g", "h", "i"], object), names, obs, "counts", x, label_key="kind")


def test_batches_are_named_as_labels_are(cells):
    with pytest.raises(DataError, match="batch-key = 'kind': 20 of 60 cells have no value"):
        cells.batches("kind")
    numbered = replace(cells, obs=cells.obs.assign(run=[1.0, 2.0, 2.0] * 20))
    codes, names = numbered.batches("run")
    assert names == ("1", "2")
    assert codes.tolist() == [0, 1, 1] * 20


def test_a_cell_with_an_empty_label_has_none_anywhere(cells):
    clusters = np.arange(60) % 3
    found = score(Fitted(np.random.default_rng(0).normal(size=(60, 2)), clusters, {}), cells)
    assert (found["ari"], found["labelled cells"]) == (1, 40)
    assert resolve_k("true", cells)[0] == 2
    with pytest.raises(DataError, match="no cell type for 20 of 60 cells"):
        partition(cells, SplitOptions(labs=2), 0)
    assert "20 cells without a label in 'kind'" in notes(
        cells.matrix, cells.genes, cells.obs, "kind"
    )
    nothing = replace(cells, obs=cells.obs.assign(kind=""))
    assert label_problems(nothing.obs, "kind") == ["label column 'kind' is empty"]
