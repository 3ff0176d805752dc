"""Every method on small and awkward files: a result or a clear sentence."""

import json
from contextlib import suppress
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines import METHODS
from fedsc.baselines.fitting import fit
from fedsc.baselines.method import Settings
from fedsc.baselines.outcome import plain
from fedsc.errors import ConfigError, DataError, FedscError

QUICK = {
    "pca": {},
    "leiden": {},
    "nmf": {"iterations": 20},
    "contrastive-sc": {"epochs": 2},
    "mask-sc": {"epochs": 2, "warmup": 1, "side": 8, "target": "expression"},
    "mask-sc-mlp": {"epochs": 2},
    "scdeepcluster": {"pretraining_epochs": 2, "clustering_epochs": 2, "tolerance": 0},
    "sczidesk": {
        "pretraining_epochs": 2,
        "clustering_epochs": 3,
        "look_every": 2,
        "tolerance": 0,
    },
}
TRAINED = ["contrastive-sc", "mask-sc", "mask-sc-mlp", "scdeepcluster", "sczidesk"]


def run(method, expression, k=3, **settings):
    k = "auto" if method == "leiden" else k
    return fit(method, expression, Settings(overrides=QUICK[method], **settings), k)


def check(fitted, n_cells):
    assert fitted.embedding.shape[0] == n_cells
    assert fitted.embedding.dtype == np.float32
    assert np.isfinite(fitted.embedding).all()
    assert fitted.clusters.shape == (n_cells,)
    assert np.issubdtype(fitted.clusters.dtype, np.integer)
    json.dumps(plain(fitted.record), allow_nan=False)


@pytest.mark.parametrize("method", METHODS)
def test_fifty_cells(method, cells):
    fitted = run(method, cells())
    check(fitted, 50)
    assert len(np.unique(fitted.clusters)) <= 3 or method == "leiden"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits(method, cells):
    one, two = (run(method, cells(), seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.embedding, two.embedding)
    np.testing.assert_array_equal(one.clusters, two.clusters)


@pytest.mark.parametrize("method", [*TRAINED, "nmf"])
def test_another_seed_gives_another_embedding(method, cells):
    one, two = (run(method, cells(), seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.embedding, two.embedding)


@pytest.mark.parametrize("method", METHODS)
def test_auto_k_never_looks_at_labels(method, cells):
    labelled = cells()
    unlabelled = replace(labelled, obs=labelled.obs.assign(type="?"))
    found = run(method, labelled, k="auto")
    check(found, 50)
    np.testing.assert_array_equal(found.clusters, run(method, unlabelled, k="auto").clusters)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_type(method, cells):
    for k in (1, "auto"):
        check(run(method, cells(n_types=1), k=k), 50)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"leiden"}))
def test_more_clusters_than_cells(method, cells):
    with pytest.raises(ConfigError, match="k = 51 clusters cannot be made of 50 cells"):
        run(method, cells(), k=51)


@pytest.mark.parametrize("method", METHODS)
def test_more_clusters_than_types(method, cells):
    check(run(method, cells(), k=20), 50)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_hardly_any_cells(method, n_cells, cells):
    with suppress(FedscError):  # anything else fails the test
        check(run(method, cells(n_cells, n_types=1), k=1), n_cells)


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_and_a_gene_without_counts(method, cells):
    given = cells()
    counts = given.matrix.toarray()
    counts[4] = 0
    counts[:, 5] = 0
    check(run(method, replace(given, matrix=csr_matrix(counts))), 50)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"nmf"}))
def test_cells_that_are_all_alike(method, cells):
    given = cells(n_types=1)
    alike = csr_matrix(np.ones(given.matrix.shape, dtype=np.float32))
    with pytest.raises(FedscError):
        run(method, replace(given, matrix=alike), k=3)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"scdeepcluster", "sczidesk"}))
def test_log_normalised_cells(method, cells):
    check(run(method, cells(kind="lognorm")), 50)


@pytest.mark.parametrize("method", ["scdeepcluster", "sczidesk"])
def test_counts_are_needed_where_they_are_modelled(method, cells):
    with pytest.raises(DataError, match=f"{method} models raw counts"):
        run(method, cells(kind="lognorm"))


@pytest.mark.parametrize("method", TRAINED)
def test_a_batch_of_one_left_over(method, cells):
    overrides = QUICK[method] | {"batch_size": 5}
    check(fit(method, cells(n_cells=11), Settings(overrides=overrides), 2), 11)


@pytest.mark.parametrize("method", TRAINED)
def test_a_second_fit_with_the_checkpoint_gives_the_same(method, cells, tmp_path):
    first = run(method, cells(), checkpoint=tmp_path)
    trained = []
    again = run(method, cells(), checkpoint=tmp_path, progress=lambda *told: trained.append(told))
    assert not trained
    np.testing.assert_array_equal(first.embedding, again.embedding)
    np.testing.assert_array_equal(first.clusters, again.clusters)


@pytest.mark.parametrize(
    ("method", "stop_at"),
    [(method, 1) for method in TRAINED] + [("scdeepcluster", 3), ("sczidesk", 4)],
)
def test_an_interrupted_fit_goes_on_with_the_same_bits(
    method, stop_at, cells, tmp_path, monkeypatch
):
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


@pytest.mark.parametrize("method", METHODS)
def test_every_module_has_presets_that_can_be_named(method, cells):
    presets = import_module(METHODS[method]).PRESETS
    with pytest.raises(ConfigError, match=f"unknown preset 'none'; known are {', '.join(presets)}"):
        fit(method, cells(), Settings(preset="none"))


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("contrastive-sc", {"epochs": 30, "learning_rate": 1e-2}),
        ("mask-sc-mlp", {"epochs": 20, "learning_rate": 1e-2}),
        ("scdeepcluster", {"pretraining_epochs": 40, "clustering_epochs": 10}),
        ("sczidesk", {"pretraining_epochs": 40, "clustering_epochs": 10, "learning_rate": 1e-3}),
    ],
)
def test_clear_types_are_told_apart(method, overrides, cells):
    given = cells(n_cells=120, n_genes=80)
    fitted = fit(method, given, Settings(overrides=overrides | {"batch_size": 64}), "true")
    assert fitted.record["scores"]["ari"] > 0.9
