import numpy as np
import torch

from fedsc.baselines.dense import all_dense, dense
from fedsc.baselines.inputs import prepare


def test_all_cells_come_once_and_in_order(cells):
    prepared, _ = prepare(cells(), 0, 10.0)
    whole = prepared.batch(np.arange(50))
    for size in (7, 25, 50, 4096):
        parts = list(all_dense(prepared, "cpu", size))
        assert max(len(part) for part in parts) <= size
        np.testing.assert_array_equal(torch.cat(parts), whole)
    np.testing.assert_array_equal(dense(prepared, np.array([4, 2]), "cpu"), whole[[4, 2]])
