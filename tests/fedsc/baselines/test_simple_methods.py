import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines import contrastive_sc, nmf, pca
from fedsc.baselines.inputs import counts_of, prepare
from fedsc.baselines.method import Settings
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError


def expression(counts, prefix="gene", kind="counts"):
    n_cells, n_genes = counts.shape
    names = np.array([f"c{i}" for i in range(n_cells)], dtype=object)
    # Letters, since names that end in a position alone can only be joined by order.
    genes = np.array([f"{prefix}-{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(n_genes)])
    matrix = csr_matrix(counts.astype(np.float32))
    return Expression(matrix, genes.astype(object), names, pd.DataFrame(index=names), kind)


def blocks(n_cells=60, n_genes=120, seed=0):
    """Three types, each with its own third of the genes."""
    rng = np.random.default_rng(seed)
    types = np.arange(n_cells) % 3
    rates = np.where(np.arange(n_genes) * 3 // n_genes == types[:, None], 8.0, 0.2)
    return rng.poisson(rates), types


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a)) == len(set(b))


def test_pca_is_scikit_learns_on_dense_counts():
    from sklearn.decomposition import PCA

    counts, _ = blocks()
    found = pca.fit(expression(counts), Settings(k=3, preset="published")).embedding
    expected = PCA(2, svd_solver="full").fit_transform(counts.astype(float))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_practitioners_pca_is_scanpys_route():
    import scanpy as sc

    counts, _ = blocks()
    found = pca.fit(
        expression(counts), Settings(k=3, overrides={"n_genes": 50, "components": 5})
    ).embedding
    adata = anndata.AnnData(csr_matrix(counts.astype(np.float32)))
    sc.pp.normalize_total(adata, target_sum=np.median(counts.sum(axis=1)))
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=50)
    adata = adata[:, adata.var.highly_variable].copy()
    adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=5)
    np.testing.assert_allclose(np.abs(found), np.abs(adata.obsm["X_pca"]), rtol=1e-2, atol=1e-2)


def test_nmf_recovers_blocks_and_its_factors_multiply_back():
    counts, types = blocks()
    fitted = nmf.fit(expression(counts), Settings(k=3))
    assert same_partition(fitted.clusters, types)
    np.testing.assert_allclose(fitted.extras["gene_factors"].sum(axis=1), 1.0, rtol=1e-5)
    error = np.linalg.norm(counts - fitted.embedding @ fitted.extras["gene_factors"])
    assert error < 0.5 * np.linalg.norm(counts)


def test_comparable_keeps_the_product():
    rng = np.random.default_rng(0)
    cells, genes = rng.random((5, 3)), rng.random((3, 4)) * 100
    genes[1] = 0
    scaled = nmf.comparable(cells, genes)
    np.testing.assert_allclose(scaled[0] @ scaled[1], cells @ genes, rtol=1e-5)
    np.testing.assert_allclose(scaled[1].sum(axis=1), [1, 0, 1], rtol=1e-5)


def test_transfer_keeps_the_sources_gene_factors_in_any_gene_order():
    counts, types = blocks()
    source = expression(blocks(seed=1)[0])
    given = expression(counts)
    order = np.random.default_rng(0).permutation(120)
    target = Expression(
        given.matrix[:, order], given.genes[order], given.cells, given.obs, "counts"
    )
    alone = nmf.fit(source, Settings(k=3))
    fitted = nmf.fit(target, Settings(k=3), source=source)
    assert fitted.record["transfer"]
    np.testing.assert_array_equal(fitted.extras["factor_genes"], alone.extras["factor_genes"])
    np.testing.assert_allclose(
        fitted.extras["gene_factors"], alone.extras["gene_factors"], rtol=1e-4, atol=1e-6
    )
    assert same_partition(fitted.clusters, types)


def test_transfer_solves_for_the_cells_alone():
    """Every cell's factors are its non-negative least squares on the source's gene factors."""
    from scipy.optimize import nnls

    target, source = expression(blocks()[0]), expression(blocks(seed=1)[0])
    fitted = nmf.fit(target, Settings(k=3), source=source)
    for i in (0, 7):
        cell = target.matrix[i].toarray()[0].astype(float)
        expected, _ = nnls(fitted.extras["gene_factors"].astype(float).T, cell)
        np.testing.assert_allclose(fitted.embedding[i], expected, rtol=0.02, atol=0.05)


def test_transfer_from_a_file(tmp_path):
    source = expression(blocks(seed=1)[0])
    adata = anndata.AnnData(source.matrix)
    adata.obs_names, adata.var_names = source.cells.astype(str), source.genes.astype(str)
    adata.write_h5ad(tmp_path / "atlas.h5ad")
    settings = Settings(k=3, overrides={"source": str(tmp_path / "atlas.h5ad")})
    assert nmf.fit(expression(blocks()[0]), settings).record["transfer"]


def test_transfer_between_strangers_is_refused():
    with pytest.raises(DataError):
        nmf.fit(
            expression(blocks()[0]), Settings(k=3), source=expression(blocks()[0], prefix="other")
        )


def test_counts_are_those_of_the_chosen_genes():
    counts, _ = blocks()
    counts[3] = 0
    given = expression(counts)
    cells, preprocessing = prepare(given, 20, 10.0)
    found = counts_of(given, preprocessing, "test")
    columns = [list(given.genes).index(gene) for gene in preprocessing.genes]
    np.testing.assert_array_equal(found.matrix.toarray(), counts[:, columns])
    totals = counts.sum(axis=1)
    median = np.median(totals[totals > 0])
    np.testing.assert_allclose(found.sizes, np.maximum(totals, 1) / median, rtol=1e-3)
    assert cells.n_genes == len(columns)


def test_learning_rate_is_the_published_cosine():
    paper = contrastive_sc.PRESETS["paper"]
    assert contrastive_sc.learning_rate(paper, 0) == pytest.approx(0.4)
    assert contrastive_sc.learning_rate(paper, 250) == pytest.approx((0.4 + 0.0004) / 2)
    assert contrastive_sc.learning_rate(paper, 500) == pytest.approx(0.0004)


def test_contrastive_embedding_has_unit_length_and_the_loss_falls():
    fitted = contrastive_sc.fit(
        expression(blocks()[0]), Settings(k=3, preset="steady", overrides={"epochs": 20})
    )
    np.testing.assert_allclose(np.linalg.norm(fitted.embedding, axis=1), 1.0, rtol=1e-5)
    assert fitted.record["losses"][-1] < fitted.record["losses"][0]


def test_an_encoder_for_prepared_cells_is_the_one_of_the_fit():
    given = expression(blocks()[0])
    settings = Settings(k=3, overrides={"epochs": 2, "n_genes": 30, "max_value": 10.0})
    cells, _ = prepare(given, 30, 10.0)
    weights = contrastive_sc.train_encoder(cells, settings)
    assert all(name.startswith("encoder.") for name in weights)
    assert not any(tensor.requires_grad for tensor in weights.values())
    np.testing.assert_array_equal(
        contrastive_sc.embed_all(weights, cells, "cpu"),
        contrastive_sc.fit(given, settings).embedding,
    )


@pytest.mark.parametrize("overrides", [{"epochs": 0}, {"mask_rate": 1.0}, {"epoch": 3}])
def test_impossible_options_are_named(overrides):
    with pytest.raises(ConfigError, match=next(iter(overrides))):
        contrastive_sc.fit(expression(blocks()[0]), Settings(k=3, overrides=overrides))
