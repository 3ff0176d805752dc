import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines.method import Settings
from fedsc.baselines.pca import PRESETS, Preset, fit
from fedsc.errors import DataError


def test_the_published_preset_is_scikit_learns_on_dense_counts(cells):
    from sklearn.decomposition import PCA

    given = cells(n_cells=60, n_genes=120)
    found = fit(given, PRESETS["published"], 3, Settings()).embedding
    expected = PCA(2, svd_solver="full").fit_transform(given.matrix.toarray().astype(float))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_practitioners_preset_is_scanpys_route(cells):
    import scanpy as sc

    given = cells(n_cells=60, n_genes=120)
    found = fit(given, Preset(5, "preprocessed", n_genes=50), 3, Settings()).embedding
    adata = anndata.AnnData(csr_matrix(given.matrix))
    sizes = np.asarray(given.matrix.sum(axis=1)).ravel()
    sc.pp.normalize_total(adata, target_sum=np.median(sizes))
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=50)
    adata = adata[:, adata.var.highly_variable].copy()
    adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=5)
    np.testing.assert_allclose(np.abs(found), np.abs(adata.obsm["X_pca"]), rtol=1e-2, atol=1e-2)


def test_counts_are_needed_where_they_are_wanted(cells):
    with pytest.raises(DataError, match="needs raw counts"):
        fit(cells(kind="lognorm"), PRESETS["published"], 3, Settings())
