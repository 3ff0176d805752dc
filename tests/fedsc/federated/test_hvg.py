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
from fedsc.errors import DataError
from fedsc.federated.answers import answer
from fedsc.federated.hvg import seurat, seurat_v3
from fedsc.federated.query import ask_locally
from fedsc.federated.statistics import learn_moments


def scanpy_choice(counts, n_genes):
    """Give scanpy's scores and choice, and the moments of what it ranks."""
    cells = anndata.AnnData(sp.csr_matrix(counts.astype(np.float64)))
    sc.pp.normalize_total(cells)
    linear = cells.X.toarray()
    sc.pp.log1p(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few dispersions; logarithm of none
        table = sc.pp.highly_variable_genes(cells, n_top_genes=n_genes, inplace=False)
    return table, linear.mean(axis=0), linear.var(axis=0, ddof=1)


def decided(table):
    """Tell whether scanpy's choice hangs on more than rounding.

    The two genes of a bin of two score ± 1/√2 whatever they are, so ties are common here.
    """
    scores = table["dispersions_norm"].to_numpy(dtype=np.float64)
    missed = scores[~table["highly_variable"]]
    return not (np.abs(missed - scores[table["highly_variable"]].min()) < 1e-8).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_seurat_chooses_as_scanpy(seed, n_genes):
    rng = np.random.default_rng(seed)
    counts = rng.negative_binomial(rng.gamma(1, 1, size=60) + 0.1, 0.3, size=(30, 60)) + 0
    counts = counts[:, counts.any(axis=0)]
    counts = counts[counts.any(axis=1)]
    assume(n_genes < counts.shape[1])
    table, mean, variance = scanpy_choice(counts, n_genes)
    if decided(table):
        assert seurat(mean, variance, n_genes).tolist() == table["highly_variable"].tolist()


def test_a_gene_alone_in_its_bin_scores_one():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, size=(50, 30))
    counts[:, 7] = rng.poisson(900.0, size=50)
    table, mean, variance = scanpy_choice(counts, 5)
    assert table["dispersions_norm"].iloc[7] == 1
    for n_genes in range(1, 31):
        table, _, _ = scanpy_choice(counts, n_genes)
        assert (seurat(mean, variance, n_genes) == table["highly_variable"]).all()


def test_genes_that_tie_with_the_last_are_all_kept():
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(1, 3, size=20) + 1, size=(40, 20))
    counts = np.column_stack([counts] * 3)  # every gene three times
    for n_genes in (1, 2, 10):
        table, mean, variance = scanpy_choice(counts, n_genes)
        chosen = seurat(mean, variance, n_genes)
        assert chosen.tolist() == table["highly_variable"].tolist()
        assert chosen.sum() % 3 == 0


def test_ties_do_not_hang_on_rounding():
    """Unlike in scanpy, where the last bits of a sum decide between two bins of two genes."""
    rng = np.random.default_rng(2)
    mean, variance = np.repeat(rng.gamma(2, 1, size=(2, 15)) + 0.1, 2, axis=1)
    jitter = 1 + rng.uniform(-4e-16, 4e-16, size=30)
    assert (seurat(mean, variance, 7) == seurat(mean * jitter, variance * jitter, 7)).all()


def test_no_more_genes_than_asked_for_are_all_chosen():
    mean, variance = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0])
    assert seurat(mean, variance, 3).all()
    assert seurat(mean, variance, 500).all()
    assert seurat(mean, np.zeros(3), 2).all()  # nothing varies, so nothing ranks them
    assert not seurat(mean, variance, 2)[1]


def counts_lab(counts, genes):
    matrix = sp.csr_matrix(counts.astype(np.float32))
    cells = np.array([f"cell-{i}" for i in range(len(counts))], dtype=object)
    names = np.array(genes, dtype=object)
    return align(
        Expression(names, cells, pd.DataFrame(index=cells), "counts", matrix),
        genes,
    )


def choose_v3(counts, parts, n_genes, seed=0):
    lab_of = np.random.default_rng(seed).integers(parts, size=len(counts))
    genes = [f"gene {i} x" for i in range(counts.shape[1])]
    labs = [counts_lab(counts[lab_of == i], genes) for i in range(parts)]
    ask = ask_locally(labs, answer)
    moments = learn_moments(ask, ("log", "counts"), counts.shape[1], 1e4)
    return seurat_v3(ask, moments, moments.detected > 0, n_genes)


def negative_binomial(seed, n_genes):
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(1, 1.5, size=n_genes)
    size = rng.gamma(2, 1, size=n_genes) + 0.2
    return rng.negative_binomial(size, size / (size + mean), size=(80, n_genes))


@pytest.mark.parametrize("seed", range(3))
def test_seurat_v3_chooses_as_scanpy(seed):
    counts = negative_binomial(seed, 300)
    counts = counts[counts.any(axis=1)]
    counts = counts[:, counts.any(axis=0)]
    cells = anndata.AnnData(sp.csr_matrix(counts.astype(np.float64)))
    table = sc.pp.highly_variable_genes(cells, flavor="seurat_v3", n_top_genes=50, inplace=False)
    for parts in (1, 4):
        chosen = choose_v3(counts, parts, 50)
        assert chosen.sum() == 50
        assert (chosen == table["highly_variable"]).all()


def test_seurat_v3_never_chooses_undetected_genes():
    counts = negative_binomial(0, 100)
    counts[:, 10] = 0
    chosen = choose_v3(counts, 2, 1000)
    assert not chosen[10]
    assert chosen.sum() == counts.any(axis=0).sum()


def test_seurat_v3_says_when_loess_cannot_be_fitted():
    counts = np.zeros((6, 40), dtype=int)
    counts[0] = 1
    counts[1, :20] = 1
    with pytest.raises(DataError, match=r"cannot fit variance on mean .* set hvg = 'seurat'"):
        choose_v3(counts, 1, 5)
