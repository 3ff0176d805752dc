import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.data.coverage import coverage, coverage_warning
from fedsc.errors import DataError


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 99))
def test_shares_of_genes_and_of_weight(measured, seed):
    measured = np.array(measured)
    layer = np.random.default_rng(seed).normal(size=(3, len(measured))).astype(np.float32)
    found = coverage(measured, layer)
    assert found.share == measured.mean()
    # Norms of the layer with and without what is missing.
    part = np.linalg.norm(np.where(measured, layer, 0).astype(float)) ** 2
    assert found.weight == pytest.approx(part / np.linalg.norm(layer.astype(float)) ** 2)


@pytest.mark.parametrize(("genes", "warns"), [(10, False), (8, False), (7, True), (2, True)])
def test_a_warning_below_80_per_cent(genes, warns):
    found = coverage(np.arange(10) < genes, np.ones((2, 10)))
    assert (coverage_warning(found) is not None) == warns


def test_a_refusal_below_20_per_cent_unless_it_is_allowed():
    found = coverage(np.arange(10) < 1, np.ones((2, 10)))
    with pytest.raises(DataError, match=r"only 1 of the model's 10 genes \(10%\), with 10% of"):
        coverage_warning(found)
    assert "may be off" in coverage_warning(found, allow_low=True)
