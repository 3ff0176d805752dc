"""Every method on small and awkward files: a result or a clear sentence."""

import json
from contextlib import suppress
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines import METHODS, MODULES
from fedsc.baselines.method import Settings
from fedsc.baselines.outcome import plain
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError, FedscError

QUICK = {
    "pca": {},
    "leiden": {},
    "nmf": {"iterations": 20},
    "contrastive-sc": {"epochs": 2},
    "scdeepcluster": {"pretraining_epochs": 2, "clustering_epochs": 2},
    "sczidesk": {"pretraining_epochs": 2, "clustering_epochs": 3, "look_every": 2},
}
TRAINED = ["contrastive-sc", "scdeepcluster", "sczidesk"]


def cells(n_cells=50, n_genes=60, n_types=3, seed=0, kind="counts"):
    rng = np.random.default_rng(seed)
    types = np.arange(n_cells) % n_types
    programs = rng.gamma(0.5, 4.0, (n_types, n_genes))
    counts = rng.poisson(programs[types]).astype(np.float32)
    counts[:, 0] = 2  # a gene that is the same everywhere
    counts[0, 1] = max(counts[0, 1], 1)
    if kind == "lognorm":
        counts = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    names = np.array([f"c{i}" for i in range(n_cells)], dtype=object)
    obs = pd.DataFrame({"type": types.astype(str)}, index=names)
    genes = np.array([f"gene-{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(n_genes)])
    return Expression(csr_matrix(counts), genes.astype(object), names, obs, kind, "type")


def run(method, expression, k=3, **others):
    k = None if method == "leiden" else k
    return METHODS[method](expression, Settings(k=k, overrides=QUICK[method], **others))


def check(fitted, n_cells):
    assert fitted.embedding.shape[0] == n_cells
    assert fitted.embedding.dtype == np.float32
    assert np.isfinite(fitted.embedding).all()
    assert fitted.clusters.shape == (n_cells,)
    assert np.issubdtype(fitted.clusters.dtype, np.integer)
    json.dumps(plain(fitted.record), allow_nan=False)


@pytest.mark.parametrize("method", QUICK)
def test_fifty_cells(method):
    fitted = run(method, cells())
    check(fitted, 50)
    assert len(np.unique(fitted.clusters)) <= 3 or method == "leiden"


@pytest.mark.parametrize("method", QUICK)
def test_the_same_seed_gives_the_same_bits(method):
    one, two = (run(method, cells(), seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.embedding, two.embedding)
    np.testing.assert_array_equal(one.clusters, two.clusters)


@pytest.mark.parametrize("method", [*TRAINED, "nmf"])
def test_another_seed_gives_another_embedding(method):
    one, two = (run(method, cells(), seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.embedding, two.embedding)


@pytest.mark.parametrize("method", QUICK)
def test_auto_k_never_looks_at_labels(method):
    labelled = cells()
    shuffled = Expression(
        labelled.matrix,
        labelled.genes,
        labelled.cells,
        labelled.obs.assign(type="?"),
        labelled.kind,
        "type",
    )
    found = run(method, labelled, k=None)
    check(found, 50)
    np.testing.assert_array_equal(found.clusters, run(method, shuffled, k=None).clusters)


@pytest.mark.parametrize("method", QUICK)
def test_a_single_type(method):
    check(run(method, cells(n_types=1), k=1), 50)
    check(run(method, cells(n_types=1), k=None), 50)


@pytest.mark.parametrize("method", sorted(set(QUICK) - {"leiden"}))
def test_more_clusters_than_cells(method):
    with pytest.raises(ConfigError, match="k = 51 clusters cannot be made of 50 cells"):
        run(method, cells(), k=51)


@pytest.mark.parametrize("method", QUICK)
def test_more_clusters_than_types(method):
    check(run(method, cells(), k=20), 50)


def test_leiden_takes_no_k():
    with pytest.raises(ConfigError, match="leiden finds the number of clusters itself"):
        METHODS["leiden"](cells(), Settings(k=3))


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_hardly_any_cells(method, n_cells):
    with suppress(FedscError):  # anything else fails the test
        check(run(method, cells(n_cells, n_types=1), k=1), n_cells)


@pytest.mark.parametrize("method", QUICK)
def test_a_cell_and_a_gene_without_counts(method):
    given = cells()
    counts = given.matrix.toarray()
    counts[4] = 0
    counts[:, 5] = 0
    empty = Expression(
        csr_matrix(counts), given.genes, given.cells, given.obs, given.kind, given.label_key
    )
    check(run(method, empty), 50)


@pytest.mark.parametrize("method", sorted(set(QUICK) - {"nmf"}))
def test_cells_that_are_all_alike(method):
    given = cells(n_types=1)
    alike = csr_matrix(np.ones(given.matrix.shape, dtype=np.float32))
    with pytest.raises(FedscError):
        run(method, Expression(alike, given.genes, given.cells, given.obs, "counts"), k=3)


@pytest.mark.parametrize("method", ["pca", "leiden", "nmf", "contrastive-sc"])
def test_log_normalised_cells(method):
    check(run(method, cells(kind="lognorm")), 50)


@pytest.mark.parametrize("method", ["scdeepcluster", "sczidesk"])
def test_counts_are_needed_where_they_are_modelled(method):
    with pytest.raises(DataError, match=f"{method} models raw counts"):
        run(method, cells(kind="lognorm"))


def test_published_pca_needs_counts():
    with pytest.raises(DataError, match="needs raw counts"):
        run("pca", cells(kind="lognorm"), preset="published")


@pytest.mark.parametrize("method", TRAINED)
def test_a_batch_of_one_left_over(method):
    expression = cells(n_cells=11)
    overrides = QUICK[method] | {"batch_size": 5}
    fitted = METHODS[method](expression, Settings(k=2, overrides=overrides))
    check(fitted, 11)


@pytest.mark.parametrize("method", TRAINED)
def test_a_second_fit_with_the_checkpoint_gives_the_same(method, tmp_path):
    first = run(method, cells(), checkpoint=tmp_path)
    trained = []
    again = run(method, cells(), checkpoint=tmp_path, progress=lambda *told: trained.append(told))
    assert not trained
    np.testing.assert_array_equal(first.embedding, again.embedding)
    np.testing.assert_array_equal(first.clusters, again.clusters)


@pytest.mark.parametrize("method", ["scdeepcluster", "sczidesk"])
@pytest.mark.parametrize("stop_at", [1, 2])
def test_an_interrupted_fit_goes_on_with_the_same_bits(method, stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr("fedsc.baselines.loop._SAVE_SECONDS", 0.0)
    whole = run(method, cells())
    told = []

    def interrupt(*what):
        told.append(what)
        if len(told) > stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(method, cells(), checkpoint=tmp_path, progress=interrupt)
    resumed = run(method, cells(), checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.embedding, whole.embedding)
    np.testing.assert_array_equal(resumed.clusters, whole.clusters)
    assert resumed.record["losses"] == whole.record["losses"]


@pytest.mark.parametrize("method", MODULES)
def test_registry_and_presets(method):
    assert list(METHODS) == list(MODULES)
    assert import_module(MODULES[method]).PRESETS
    with pytest.raises(ConfigError, match="unknown preset 'nonsense'"):
        METHODS[method](cells(), Settings(k=None, preset="nonsense"))


def test_trained_methods_separate_clear_types():
    from sklearn.metrics import adjusted_rand_score

    given = cells(n_cells=120, n_genes=80)
    overrides = {
        "contrastive-sc": {"epochs": 30, "learning_rate": 1e-2},
        "scdeepcluster": {"pretraining_epochs": 60, "clustering_epochs": 20},
        "sczidesk": {"pretraining_epochs": 60, "clustering_epochs": 20, "learning_rate": 1e-3},
    }
    for method, quick in overrides.items():
        fitted = METHODS[method](given, Settings(k=3, overrides=quick | {"batch_size": 64}))
        assert adjusted_rand_score(given.labels, fitted.clusters) > 0.9, method
