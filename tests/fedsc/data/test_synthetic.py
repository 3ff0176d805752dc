import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from fedsc.data import synthetic
from fedsc.data.synthetic import Biology, draw_group, draw_truth, synthesize, write_synthetic
from fedsc.errors import ConfigError


def counts_of(truth) -> csr_matrix:
    groups = -(-len(truth.library) // synthetic.GROUP)
    return vstack([draw_group(truth, group) for group in range(groups)], format="csr")


def same(a: csr_matrix, b: csr_matrix) -> bool:
    return all(
        np.array_equal(x, y) and x.dtype == y.dtype
        for x, y in zip((a.data, a.indices), (b.data, b.indices), strict=True)
    ) and np.array_equal(a.indptr, b.indptr)


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_moments(dispersion, dropout):
    """Mean (1-d)·m and variance (1-d)(m + (1+φ)m²) - ((1-d)m)²: gamma-Poisson, then lost."""
    biology = Biology(
        markers=1, library=120, library_spread=0, dispersion=dispersion, dropout=dropout, batch=0
    )
    truth = draw_truth(20000, 6, 1, 1, 3, biology)
    x = counts_of(truth).toarray()
    m = 120 * truth.profiles[0, 0].astype(float)
    mean = (1 - dropout) * m
    variance = (1 - dropout) * (m + (1 + dispersion) * m**2) - mean**2
    error = np.sqrt(variance / len(x))
    assert (np.abs(x.mean(axis=0) - mean) < 4.5 * error).all()
    big = m > 1
    assert big.sum() >= 3
    assert np.allclose(x.var(axis=0)[big], variance[big], rtol=0.1)


def test_library_sizes_are_log_normal():
    truth = draw_truth(20000, 50, 2, 2, 0, Biology(library=500, library_spread=0.4))
    assert abs(np.log(truth.library).mean() - np.log(500)) < 4.5 * 0.4 / np.sqrt(20000)
    assert abs(np.log(truth.library).std() - 0.4) < 0.01
    totals = np.asarray(counts_of(truth).sum(axis=1)).ravel()
    assert np.corrcoef(totals, truth.library)[0, 1] > 0.5


def test_markers_are_expressed_fold_times_as_much_in_their_type():
    truth = draw_truth(10, 400, 5, 1, 1, Biology(markers=20, fold=6.0, batch=0))
    assert np.bincount(truth.marks + 1).tolist() == [300, 20, 20, 20, 20, 20]
    # Shares are relative, so compare with a gene that marks nothing.
    plain = np.flatnonzero(truth.marks == -1)[0]
    relative = truth.profiles[0] / truth.profiles[0][:, [plain]]
    for kind in range(5):
        own, others = relative[kind], relative[(kind + 1) % 5]
        marks = truth.marks == kind
        assert np.allclose(own[marks] / others[marks], 6.0, rtol=1e-4)
        neither = truth.marks == -1
        assert np.allclose(own[neither] / others[neither], 1.0, rtol=1e-4)


def test_labs_differ_by_the_batch_factor():
    still = draw_truth(10, 3000, 2, 2, 1, Biology(batch=0)).profiles
    assert np.array_equal(still[0], still[1])
    moved = draw_truth(10, 3000, 2, 2, 1, Biology(batch=0.2)).profiles
    ratio = np.log(moved[0, 0] / moved[1, 0])
    assert abs(ratio.std() - 0.2 * np.sqrt(2)) < 0.02


def test_shares_of_labs_and_types():
    made = synthesize(1003, 300, 6, 4, 0)
    assert sorted(made.obs["lab"].value_counts()) == [250, 251, 251, 251]
    assert made.obs["cell_type"].nunique() == 6
    few = synthesize(6, 300, 6, 4, 0)
    assert few.obs["cell_type"].nunique() == 6
    assert few.obs["lab"].nunique() == 4


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    made = [synthesize(600, 200, 3, 2, seed) for seed in (5, 5, 6)]
    assert same(made[0].X, made[1].X)
    assert made[0].obs.equals(made[1].obs)
    assert made[0].var.equals(made[1].var)
    assert not same(made[0].X, made[2].X)


@pytest.mark.parametrize("block", [1, 100, 256, 300, 5000])
def test_file_equals_memory_whatever_the_block(tmp_path, block):
    cells = 60 if block == 1 else 700
    made = synthesize(cells, 200, 3, 2, 5)
    path = tmp_path / "toy.h5ad"
    seen = []
    write_synthetic(path, cells, 200, 3, 2, 5, block=block, written=seen.append)
    read = anndata.read_h5ad(path)
    assert same(made.X, csr_matrix(read.X))
    assert read.X.indptr.dtype == np.int64
    assert read.X.has_sorted_indices
    assert read.obs.equals(made.obs)
    assert read.var.equals(made.var)
    assert seen == [*range(block, cells, block), cells]
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_group_is_dense_and_only_a_block_is_held(tmp_path, monkeypatch):
    drawn, written = [], []
    draw = synthetic.draw_group

    def watched(truth, group):
        drawn.append(draw(truth, group))
        return drawn[-1]

    monkeypatch.setattr(synthetic, "draw_group", watched)
    waiting = []

    def note(cells):
        # What was drawn but is not yet on disk is all the counts that are in memory.
        waiting.append(sum(part.shape[0] for part in drawn) - cells)
        written.append(cells)

    write_synthetic(tmp_path / "toy.h5ad", 3000, 100, 2, 2, 0, block=512, written=note)
    assert max(part.shape[0] for part in drawn) == synthetic.GROUP
    assert written == [512, 1024, 1536, 2048, 2560, 3000]
    assert max(waiting) < synthetic.GROUP


def test_counts_are_counts_and_types_can_be_found():
    from sklearn.metrics import adjusted_rand_score

    from fedsc.evaluate import kmeans

    made = synthesize(500, 300, 4, 2, 0)
    assert made.X.dtype == np.float32
    assert (made.X.data > 0).all()
    assert np.array_equal(made.X.data, np.round(made.X.data))
    x = made.X.toarray()
    x = np.log1p(1000 * x / x.sum(axis=1, keepdims=True))
    found = kmeans(x, 4, 0)
    assert adjusted_rand_score(made.obs["cell_type"], found) > 0.9


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "toy.h5ad"
    path.write_text("before")

    def fail(cells):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(path, 50, 200, 2, 2, 0, written=fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("numbers", "biology", "message"),
    [
        ((0, 200, 2, 2), {}, "cells = 0: should be at least 1"),
        ((10, 200, 2, 0), {}, "labs = 0: should be at least 1"),
        ((3, 200, 4, 1), {}, "cells = 3: too few for types = 4 and labs = 1"),
        ((10, 30, 2, 1), {}, "genes = 30: types = 2 with markers = 20 each need 40 genes"),
        ((10, 200, 2, 1), {"markers": -1}, "markers = -1: should not be negative"),
        ((10, 200, 2, 1), {"dispersion": -0.1}, "dispersion = -0.1: should not be negative"),
        ((10, 200, 2, 1), {"batch": float("nan")}, "batch = nan: should not be negative"),
        ((10, 200, 2, 1), {"library": 0.0}, "library = 0.0: should be above 0"),
        ((10, 200, 2, 1), {"fold": -2.0}, "fold = -2.0: should be above 0"),
        ((10, 200, 2, 1), {"dropout": 1.0}, "dropout = 1.0: should be from 0 to below 1"),
    ],
)
def test_numbers_that_make_no_set(numbers, biology, message):
    with pytest.raises(ConfigError, match=message):
        synthesize(*numbers, 0, Biology(**biology))
