from dataclasses import replace

import anndata
import numpy as np
import pytest

from fedsc.baselines.method import Settings
from fedsc.baselines.nmf import Preset, comparable, fit
from fedsc.errors import ConfigError, DataError


@pytest.fixture
def given(cells):
    return cells(n_genes=120)


@pytest.fixture
def atlas(cells, tmp_path):
    """Write other cells of the same types, and give the preset that takes its factors there."""

    def write(**how):
        source = cells(n_genes=120, **how)
        adata = anndata.AnnData(source.matrix)
        adata.obs_names, adata.var_names = source.cells.astype(str), source.genes.astype(str)
        adata.write_h5ad(tmp_path / "atlas.h5ad")
        return Preset(source=str(tmp_path / "atlas.h5ad"))

    return write


def test_types_are_found_and_the_factors_multiply_back(given, same_partition):
    fitted = fit(given, Preset(), 3, Settings())
    assert same_partition(fitted.clusters, given.labels)
    np.testing.assert_allclose(fitted.extras["gene_factors"].sum(axis=1), 1.0, rtol=1e-5)
    counts = given.matrix.toarray()
    error = np.linalg.norm(counts - fitted.embedding @ fitted.extras["gene_factors"])
    assert error < 0.5 * np.linalg.norm(counts)


def test_comparable_keeps_the_product():
    rng = np.random.default_rng(0)
    cells, genes = rng.random((5, 3)), rng.random((3, 4)) * 100
    genes[1] = 0
    scaled = comparable(cells, genes)
    np.testing.assert_allclose(scaled[0] @ scaled[1], cells @ genes, rtol=1e-5)
    np.testing.assert_allclose(scaled[1].sum(axis=1), [1, 0, 1], rtol=1e-5)


def test_transfer_keeps_the_sources_gene_factors_in_any_gene_order(
    cells, given, atlas, same_partition
):
    order = np.random.default_rng(0).permutation(120)
    target = replace(given, genes=given.genes[order], matrix=given.matrix[:, order])
    alone = fit(cells(n_cells=70, n_genes=120), Preset(), 3, Settings())
    fitted = fit(target, atlas(n_cells=70), 3, Settings())
    assert fitted.record["transfer"]
    np.testing.assert_array_equal(fitted.extras["factor_genes"], alone.extras["factor_genes"])
    np.testing.assert_allclose(
        fitted.extras["gene_factors"], alone.extras["gene_factors"], rtol=1e-4, atol=1e-6
    )
    assert same_partition(fitted.clusters, given.labels)


def test_transfer_solves_for_the_cells_alone(given, atlas):
    """Every cell's factors are its non-negative least squares on the source's gene factors."""
    from scipy.optimize import nnls

    fitted = fit(given, atlas(n_cells=70), 3, Settings())
    for i in (0, 7):
        cell = given.matrix[i].toarray()[0].astype(float)
        expected, _ = nnls(fitted.extras["gene_factors"].astype(float).T, cell)
        np.testing.assert_allclose(fitted.embedding[i], expected, rtol=0.02, atol=0.05)


def test_transfer_between_strangers_is_refused(given, atlas):
    with pytest.raises(DataError, match="share"):
        fit(given, atlas(prefix="other"), 3, Settings())


def test_transfer_to_other_values_is_refused(cells, atlas):
    with pytest.raises(DataError, match="the source holds counts and the file lognorm"):
        fit(cells(n_genes=120, kind="lognorm"), atlas(), 3, Settings())


def test_a_source_of_fewer_cells_than_factors_is_refused(given, atlas):
    with pytest.raises(ConfigError, match="k = 20 clusters cannot be made of 10 cells"):
        fit(given, atlas(n_cells=10), 20, Settings())
