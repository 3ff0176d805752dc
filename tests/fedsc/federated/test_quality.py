import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsc.data import rows
from fedsc.data.aligned import align
from fedsc.data.expression import Expression
from fedsc.data.quality import Thresholds, cell_quality, failing, mitochondrial, passing
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.errors import ConfigError, DataError
from fedsc.federated.answers import answer
from fedsc.federated.quality import MADS, learn_kept, learn_thresholds
from fedsc.federated.query import ask_locally

GENES = [*(f"gene {i} x" for i in range(10)), "MT-CO1", "mt-Nd1"]
MITO = mitochondrial(GENES)


def lab(matrix, genes=None, kind="counts"):
    matrix = sp.csr_matrix(np.asarray(matrix, dtype=np.float32))
    cells = np.array([f"cell-{i}" for i in range(matrix.shape[0])], dtype=object)
    genes = GENES if genes is None else genes
    expression = Expression(
        np.array(genes, dtype=object), cells, pd.DataFrame(index=cells), kind, matrix
    )
    return align(expression, GENES)


def sample(seed, n_cells=60):
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.7, size=(n_cells, 1))
    counts = rng.poisson(rng.gamma(1, 3, size=12) * depth)
    return counts, rng.integers(rng.integers(1, 5), size=n_cells)


def ask_of(counts, lab_of):
    labs = [lab(counts[lab_of == i]) for i in range(lab_of.max() + 1)]
    return ask_locally(labs, answer)


def counting(ask):
    def counted(question):
        counted.questions += 1
        return ask(question)

    counted.questions = 0
    return counted


def scanpy_metrics(counts, genes):
    """Give scanpy's measures of every cell: genes, counts, mitochondrial share."""
    cells = anndata.AnnData(sp.csr_matrix(counts.astype(np.float64)))
    cells.var_names = genes
    cells.var["mt"] = cells.var_names.str.upper().str.startswith("MT-")
    sc.pp.calculate_qc_metrics(cells, qc_vars=["mt"], percent_top=None, inplace=True)
    table = cells.obs
    share = table["total_counts_mt"].to_numpy() / table["total_counts"].to_numpy()
    return table["n_genes_by_counts"].to_numpy(), table["total_counts"].to_numpy(), share


def limits_by_hand(n_genes, counts, share):
    """Take medians and MADs with NumPy over the pooled cells."""

    def limit(x, mads):
        return np.median(x) + mads * np.median(np.abs(x - np.median(x)))

    return {
        "min_genes": max(np.expm1(limit(np.log1p(n_genes), -5)), 0),
        "min_counts": max(np.expm1(limit(np.log1p(counts), -5)), 0),
        "max_mito": limit(share, 3),
    }


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_limits_by_mad_are_those_of_the_pool(seed):
    counts, lab_of = sample(seed)
    counts = counts[counts.any(axis=1)]
    lab_of = lab_of[: len(counts)]
    n_genes, sums, share = scanpy_metrics(counts, GENES)
    assume(len(set(n_genes)) > 3)
    expected = limits_by_hand(n_genes, sums, share)
    ask = counting(ask_of(counts, lab_of))
    found = learn_thresholds(ask, GENES, min_genes="mad", min_counts="mad", max_mito="mad")
    assert ask.questions <= 8
    assert found.max_mito == expected["max_mito"]
    assert found.min_genes == pytest.approx(expected["min_genes"], abs=1e-6)
    assert found.min_counts == pytest.approx(expected["min_counts"], abs=1e-6)

    outlying = (
        (np.log1p(n_genes) < np.log1p(expected["min_genes"]) - 1e-9)
        | (np.log1p(sums) < np.log1p(expected["min_counts"]) - 1e-9)
        | (share > expected["max_mito"])
    )
    assert (passing(failing(cell_quality(lab(counts), MITO), found)) == ~outlying).all()
    assert learn_kept(ask, GENES, found).kept == (~outlying).sum()


def test_as_scanpy_and_numpy_on_real_labs(real_data):
    cells = read(real_data("hao_pbmc_1336"), ReadAs(label_key="cell_type"))
    batches = cells.obs["batch"].to_numpy()
    labs = [
        align(cells.subset(np.flatnonzero(batches == batch)), cells.genes)
        for batch in np.unique(batches)
    ]
    mito = mitochondrial(cells.genes)
    assert mito.sum() == 4
    n_genes, counts, share = scanpy_metrics(cells.matrix, cells.genes)
    quality = cell_quality(align(cells, cells.genes), mito)
    assert (quality.genes == n_genes).all()
    assert (quality.counts == counts).all()
    assert (quality.mito == share).all()

    ask = ask_locally(labs, answer)
    found = learn_thresholds(
        ask, cells.genes, min_genes="mad", min_counts="mad", max_mito="mad", min_cells_per_gene=3
    )
    expected = limits_by_hand(n_genes, counts, share)
    assert found.max_mito == expected["max_mito"]
    assert found.min_genes == round(expected["min_genes"], 6)
    assert found.min_counts == round(expected["min_counts"], 6)

    keep = (n_genes >= expected["min_genes"]) & (counts >= expected["min_counts"])
    keep &= share <= expected["max_mito"]
    assert 0 < (~keep).sum() < 200
    kept = learn_kept(ask, cells.genes, found)
    assert (kept.cells, kept.kept) == (1336, keep.sum())
    assert sum(passing(failing(cell_quality(one, mito), found)).sum() for one in labs) == keep.sum()
    detected = np.asarray((cells.matrix[keep] > 0).sum(axis=0)).ravel()
    assert (kept.genes == (detected >= 3)).all()
    assert not kept.genes.all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 20, 10**6]))
def test_what_is_kept_of_any_split_is_the_pool_s(seed, block):
    counts, lab_of = sample(seed, n_cells=20)
    counts[0] = 0
    thresholds = Thresholds(6, 15, 0.3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", block)
        sums = counts.sum(axis=1)
        share = np.divide(counts[:, MITO].sum(axis=1), sums, out=np.zeros(20), where=sums > 0)
        fails = {
            "min_genes": (counts > 0).sum(axis=1) < 6,
            "min_counts": sums < 15,
            "max_mito": share > 0.3,
        }
        keep = ~np.logical_or.reduce(list(fails.values()))
        genes = (counts[keep] > 0).sum(axis=0) >= 4
        if not keep.any() or not genes.any():
            with pytest.raises(DataError, match=f"leaves {keep.sum()} of 20 cells"):
                learn_kept(ask_of(counts, lab_of), GENES, thresholds)
            return
        kept = learn_kept(ask_of(counts, lab_of), GENES, thresholds)
    assert (kept.cells, kept.kept) == (20, keep.sum())
    assert kept.lost == {name: cells.sum() for name, cells in fails.items()}
    assert (kept.genes == genes).all()


def test_fixed_limits_are_not_asked_for():
    def ask(question):
        raise AssertionError("nothing to ask")

    assert learn_thresholds(ask, GENES) == Thresholds()
    found = learn_thresholds(ask, GENES, min_genes=200, max_mito=0.1, min_cells_per_gene=3)
    assert found == Thresholds(200, 0, 0.1, 3)


def test_the_defaults_keep_all():
    counts, lab_of = sample(0)
    counts[3] = 0
    kept = learn_kept(ask_of(counts, lab_of), GENES, Thresholds())
    assert (kept.kept, kept.genes.all()) == (60, True)
    assert kept.lost == dict.fromkeys(MADS, 0)


def test_one_limit_from_the_pool_and_one_fixed():
    counts, lab_of = sample(1)
    ask = ask_of(counts, lab_of)
    every = learn_thresholds(ask, GENES, min_genes="mad", min_counts="mad", max_mito="mad")
    one = learn_thresholds(ask, GENES, min_counts="mad", max_mito=0.2)
    assert one == Thresholds(0.0, every.min_counts, 0.2, 0)


def test_an_unknown_mitochondrial_share_is_not_held_against_a_cell():
    counts, _ = sample(2)
    known, other = lab(counts[:40]), lab(counts[40:, :10], GENES[:10])
    assert np.isnan(cell_quality(other, MITO).mito).all()
    assert passing(failing(cell_quality(other, MITO), Thresholds(max_mito=0.0))).all()
    alone = learn_thresholds(ask_locally([known], answer), GENES, max_mito="mad")
    both = learn_thresholds(ask_locally([known, other], answer), GENES, max_mito="mad")
    assert alone == both
    with pytest.raises(DataError, match="max-mito = 'mad': no lab has a cell that tells it"):
        learn_thresholds(ask_locally([other], answer), GENES, max_mito="mad")


@pytest.mark.parametrize("limit", [0.1, "mad"])
def test_a_vocabulary_without_mitochondrial_genes(limit):
    ask = ask_locally([lab(np.ones((3, 12)))], answer)
    with pytest.raises(ConfigError, match=f"max-mito = {limit}: none of the 10 genes"):
        learn_thresholds(ask, GENES[:10], max_mito=limit)


def test_a_mad_of_zero_is_no_limit():
    counts = np.tile([1, 1, 0], (9, 4))
    counts[0, 2] = 5
    with pytest.raises(DataError, match="min-genes = 'mad': half of the pool's cells"):
        learn_thresholds(ask_locally([lab(counts)], answer), GENES, min_genes="mad")


def test_log_normalised_values_have_no_counts():
    ask = ask_locally([lab(np.log1p(np.ones((3, 12))), kind="lognorm")], answer)
    for learn in (
        lambda: learn_kept(ask, GENES, Thresholds(1)),
        lambda: learn_thresholds(ask, GENES, min_genes="mad"),
    ):
        with pytest.raises(DataError, match="quality control needs raw counts"):
            learn()


def test_mitochondrial_genes_by_name():
    names = ["MT-CO1", "mt-Nd1", "Mt-nd2", "MTOR", "MT1X", "AMT-1", "ENSG00000198888"]
    assert mitochondrial(names).tolist() == [True, True, True, False, False, False, False]
    assert mitochondrial([]).dtype == bool
