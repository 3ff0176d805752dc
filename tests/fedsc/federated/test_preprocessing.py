import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.data.preprocess import transform
from fedsc.errors import DataError
from fedsc.federated.answers import answer
from fedsc.federated.preprocessing import fit_preprocessing, learn_preprocessing
from fedsc.federated.query import ask_locally
from fedsc.options import DataOptions


def expression(matrix, genes=None, kind="counts"):
    matrix = sp.csr_matrix(matrix, dtype=np.float32)
    matrix.eliminate_zeros()
    cells = np.array([f"cell-{i}" for i in range(matrix.shape[0])], dtype=object)
    genes = [f"gene {i} x" for i in range(matrix.shape[1])] if genes is None else genes
    obs = pd.DataFrame(index=cells)
    return Expression(np.array(genes, dtype=object), cells, obs, kind, matrix)


def scanpy_pooled(pool, config, *, flavor="seurat"):
    """Preprocess the pooled matrix with scanpy, in float64; genes and cells left are in it."""
    cells = anndata.AnnData(
        pool.matrix.astype(np.float64), obs=pool.obs, var=pd.DataFrame(index=pool.genes)
    )
    choose = {"flavor": flavor, "n_top_genes": config.n_genes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on few dispersions, zero-centring a sparse matrix
        if pool.kind == "counts":
            sc.pp.filter_cells(cells, min_counts=1)
            sc.pp.filter_genes(cells, min_counts=1)
            if flavor == "seurat_v3":
                sc.pp.highly_variable_genes(cells, **choose)
            sc.pp.normalize_total(cells, target_sum=config.target_sum or None)
            sc.pp.log1p(cells)
        if flavor == "seurat":
            sc.pp.highly_variable_genes(cells, **choose)
        cells = cells[:, cells.var["highly_variable"]].copy()
        sc.pp.scale(cells, max_value=config.max_value)
    return cells


def split(pool, parts, seed):
    lab_of = np.random.default_rng(seed).integers(parts, size=pool.matrix.shape[0])
    return [pool.subset(np.flatnonzero(lab_of == i)) for i in range(parts)]


def assert_equals_scanpy(learnt, expected, pool):
    assert sorted(learnt.genes) == sorted(expected.var_names)
    assert list(learnt.genes) == [gene for gene in learnt.vocabulary if gene in learnt.genes]
    expected = expected[:, list(learnt.genes)]
    np.testing.assert_allclose(learnt.mean, expected.var["mean"], rtol=1e-6)
    np.testing.assert_allclose(learnt.std**2, expected.var["std"] ** 2, rtol=1e-6)
    cells = transform(pool, learnt)
    rows = pd.Index(pool.cells).get_indexer(expected.obs_names)
    np.testing.assert_allclose(cells.batch(rows), expected.X, atol=1e-4)


SETS = (
    "10x_pbmc_4271_top2000",
    "baron_mouse_pancreas",
    "cellmix_3lines_3protocols",
    "cellmix_5batches_2protocols",
    "hao_pbmc_1336",
    "kang_ifn_pbmc_1556",
    "kang_ifn_pbmc_donors",
    "mouse_bladder_2100_allgenes",
    "mouse_bladder_2746_top2003",
    "pancreas_xin_674_lognorm",
    "pbmc3k_2638",
    "pbmc_3techs_1200",
    "pbmc_4studies",
    "worm_neuron_4186",
    "young_human_kidney_5685_top2000",
    "zheng_facs_pbmc_3774",
)


def read(path):
    cells = anndata.read_h5ad(path)
    kind = "lognorm" if path.stem.endswith("lognorm") else "counts"
    return expression(cells.X, cells.var_names, kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_real_sets_equal_scanpy_under_any_partition(real_data, name):
    pool, config = read(real_data(name)), DataOptions()
    expected = scanpy_pooled(pool, config)
    for parts, seed in ((1, 0), (2, 1), (5, 2)):
        assert_equals_scanpy(fit_preprocessing(split(pool, parts, seed), config), expected, pool)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mouse_bladder_2746_top2003", "pbmc3k_2638"])
def test_seurat_v3_on_real_sets(real_data, name):
    pool, config = read(real_data(name)), DataOptions(hvg="seurat_v3", n_genes=1000, target_sum=1e4)
    learnt = fit_preprocessing(split(pool, 3, 0), config)
    assert_equals_scanpy(learnt, scanpy_pooled(pool, config, flavor="seurat_v3"), pool)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 25),
    st.sampled_from([0.0, 100.0]),
)
def test_any_partition_of_any_matrix_equals_scanpy(seed, parts, n_genes, target_sum):
    rng = np.random.default_rng(seed)
    cells, genes = rng.integers(3, 20), 20
    counts = rng.negative_binomial(0.7, 1 / (1 + rng.gamma(0.5, 4, size=genes)), (cells, genes))
    assume((counts.sum(axis=1) > 0).sum() > 1)
    assume(n_genes < (counts > 0).any(axis=0).sum())
    pool = expression(counts)
    config = DataOptions(n_genes=n_genes, target_sum=target_sum, min_shared_genes=20)
    expected = scanpy_pooled(pool, config)
    # A gene that is constant but for rounding is constant here, and noise in scanpy.
    assume((expected.var["std"] > 1e-9).all())
    assume(_decided(pool, config))
    learnt = fit_preprocessing(split(pool, parts, seed), config)
    assert_equals_scanpy(learnt, expected, pool)


def _decided(pool, config):
    """Tell whether scanpy's choice hangs on more than rounding."""
    cells = anndata.AnnData(pool.matrix.astype(np.float64))
    sc.pp.filter_cells(cells, min_counts=1)
    sc.pp.filter_genes(cells, min_counts=1)
    sc.pp.normalize_total(cells, target_sum=config.target_sum or None)
    sc.pp.log1p(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(cells, n_top_genes=config.n_genes, inplace=False)
    scores = table["dispersions_norm"].to_numpy(dtype=np.float64)
    # Genes that are the same but for rounding are alone in their bin: 0 / 0 up to rounding.
    if np.isinf(scores).any() or not table["highly_variable"].any():
        return False
    cutoff = scores[table["highly_variable"]].min()
    edges = np.linspace(table["means"].min(), table["means"].max(), 21)[1:-1]
    margin = np.abs(table["means"].to_numpy()[:, None] - edges).min()
    missed = np.abs(scores - cutoff)[~table["highly_variable"]]
    return margin > 1e-9 and not (missed < 1e-8).any()


def test_the_result_does_not_hang_on_the_partition():
    counts = np.random.default_rng(0).negative_binomial(0.5, 0.2, size=(60, 40))
    pool, config = expression(counts), DataOptions(n_genes=10, min_shared_genes=1)
    one = fit_preprocessing([pool], config)
    for parts in (2, 7, 60):
        many = fit_preprocessing(split(pool, parts, parts), config)
        assert many.genes == one.genes
        assert many.target_sum == one.target_sum
        np.testing.assert_allclose(many.mean, one.mean, rtol=1e-12)
        np.testing.assert_allclose(many.std, one.std, rtol=1e-12)


def test_labs_with_other_genes_in_another_order():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(0.5, 0.2, size=(60, 40))
    genes = [f"gene {i} x" for i in range(40)]
    config = DataOptions(n_genes=10, min_shared_genes=20)
    order = rng.permutation(40)
    wider = np.column_stack([counts[30:, order], rng.poisson(50, size=(30, 2))])
    labs = [
        expression(counts[:30], genes),
        expression(wider, [genes[i] for i in order] + ["other y", "other z"]),
    ]
    learnt = fit_preprocessing(labs, config)
    plain = fit_preprocessing([expression(counts)], config)
    assert sorted(learnt.genes) == sorted(plain.genes)
    assert learnt.target_sum == plain.target_sum
    column = {gene: i for i, gene in enumerate(learnt.genes)}
    batch = np.concatenate([transform(lab, learnt).batch(np.arange(30)) for lab in labs])
    expected = transform(expression(counts), plain).batch(np.arange(60))
    np.testing.assert_allclose(
        batch[:, [column[gene] for gene in plain.genes]], expected, rtol=1e-5, atol=1e-6
    )


def test_more_genes_than_detected_gives_all_detected():
    counts = np.random.default_rng(0).poisson(2.0, size=(20, 6)) + 1
    counts[:, 2] = 0
    learnt = fit_preprocessing([expression(counts)], DataOptions(n_genes=500))
    assert learnt.genes == tuple(f"gene {i} x" for i in (0, 1, 3, 4, 5))
    assert len(learnt.vocabulary) == 6


def test_target_sum_given_saves_the_median():
    lab = expression(np.random.default_rng(0).poisson(2.0, size=(20, 6)) + 1)
    asked = []

    def ask(question):
        asked.append(question.name)
        return ask_locally([align(lab, lab.genes)], answer)(question)

    learnt = learn_preprocessing(ask, lab.genes, "counts", DataOptions(target_sum=1e4))
    assert asked == ["gene-moments", "gene-moments"]
    assert learnt.target_sum == 1e4
    learn_preprocessing(ask, lab.genes, "counts", DataOptions())
    assert len(asked) == 2 + 2 + 4
    lognorm = DataOptions(target_sum=1e4)  # has no say over values that are normalised already
    assert learn_preprocessing(ask, lab.genes, "lognorm", lognorm).target_sum == 0


def test_genes_of_a_reference(tmp_path):
    (tmp_path / "genes.txt").write_text("gene 1 x\ngene 3 x\nabsent\n")
    lab = expression(np.random.default_rng(0).poisson(2.0, size=(20, 6)))
    config = DataOptions(
        genes="reference", reference_genes=str(tmp_path / "genes.txt"), min_shared_genes=2
    )
    assert fit_preprocessing([lab], config).vocabulary == ("gene 1 x", "gene 3 x")


def test_what_cannot_be_learnt_from_is_refused():
    empty = expression(np.zeros((3, 4)))
    for config in (DataOptions(), DataOptions(target_sum=1e4)):
        with pytest.raises(DataError, match="no lab has a cell with counts"):
            fit_preprocessing([empty], config)
    counts, lognorm = expression(np.eye(4)), expression(np.eye(4), kind="lognorm")
    with pytest.raises(DataError, match="labs hold counts and lognorm"):
        fit_preprocessing([counts, lognorm], DataOptions())
    with pytest.raises(DataError, match="labs hold nothing"):
        fit_preprocessing([], DataOptions())
    with pytest.raises(DataError, match="needs raw counts"):
        fit_preprocessing([lognorm], DataOptions(hvg="seurat_v3"))
