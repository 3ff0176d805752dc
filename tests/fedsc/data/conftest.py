import anndata
import pytest


@pytest.fixture
def cells(tiny_set):
    return anndata.read_h5ad(tiny_set)
