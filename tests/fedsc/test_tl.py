import inspect

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import fedsc.tl
from fedsc.baselines import METHODS
from fedsc.errors import ConfigError, DataError


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    types = np.arange(45) % 3
    rates = np.where(np.arange(60) // 20 == types[:, None], 6.0, 0.3)
    counts = csr_matrix(rng.poisson(rates).astype(np.int32))
    obs = pd.DataFrame(
        {"type": pd.Categorical(types.astype(str))}, index=[f"c{i}" for i in range(45)]
    )
    var = pd.DataFrame(index=[f"gene-{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(60)])
    return anndata.AnnData(counts, obs=obs, var=var)


def test_there_is_a_function_for_every_method():
    for method in METHODS:
        assert callable(getattr(fedsc.tl, method.replace("-", "_")))


def test_a_notebook_shows_the_keywords_and_what_they_mean():
    for method in METHODS:
        function = getattr(fedsc.tl, method.replace("-", "_"))
        shown = inspect.signature(function)
        assert list(shown.parameters)[:2] == ["adata", "k"]
        assert shown.parameters["seed"].default == 0
        assert shown.parameters["copy"].kind is inspect.Parameter.KEYWORD_ONLY
        assert f'obsm["X_fedsc_{function.__name__}"]' in function.__doc__
    with pytest.raises(TypeError, match="sed"):
        fedsc.tl.pca(None, sed=3)


def test_results_are_written_scanpy_style_and_survive_a_file(adata, tmp_path):
    before = adata.X.copy()
    assert fedsc.tl.contrastive_sc(adata, k=3, overrides={"epochs": 2}, seed=4) is None
    assert adata.obsm["X_fedsc_contrastive_sc"].shape == (45, 60)
    assert list(adata.obs["fedsc_contrastive_sc"].cat.categories) == ["0", "1", "2"]
    record = adata.uns["fedsc_contrastive_sc"]
    assert (record["method"], record["seed"], record["k is"]) == ("contrastive-sc", 4, "given")
    assert (before != adata.X).nnz == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(
        again.obsm["X_fedsc_contrastive_sc"], adata.obsm["X_fedsc_contrastive_sc"]
    )
    assert again.uns["fedsc_contrastive_sc"]["preset"]["epochs"] == 2
    assert len(again.uns["fedsc_contrastive_sc"]["losses"]) == 2


def test_k_is_not_taken_from_labels_unless_asked(adata):
    fedsc.tl.pca(adata, label_key="type")
    assert adata.uns["fedsc_pca"]["k is"] == "chosen by Leiden, labels not looked at"
    assert adata.uns["fedsc_pca"]["clusters"]["by"] == "leiden"
    fedsc.tl.pca(adata, label_key="type", k="true")
    assert adata.uns["fedsc_pca"]["k is"] == "TAKEN FROM THE LABELS (3 types in 'type')"
    assert adata.uns["fedsc_pca"]["scores"]["ari"] == pytest.approx(1.0)


def test_true_k_needs_labels(adata):
    with pytest.raises(DataError, match="none are known"):
        fedsc.tl.pca(adata, k="true")


@pytest.mark.parametrize("k", [0, -1, "many", "2.5"])
def test_impossible_k(adata, k):
    with pytest.raises(ConfigError, match="should be a number of clusters, 'auto' or 'true'"):
        fedsc.tl.pca(adata, k=k)


def test_unlabelled_cells_count_in_no_score(adata):
    adata.obs["partly"] = adata.obs["type"].astype(object)
    adata.obs.loc[adata.obs_names[::2], "partly"] = np.nan
    fedsc.tl.pca(adata, label_key="partly", k="true")
    scores = adata.uns["fedsc_pca"]["scores"]
    assert (scores["k"], scores["cells"], scores["labelled cells"]) == (3, 45, 22)
    assert scores["ari"] == pytest.approx(1.0)


def test_without_labels_there_are_no_scores_against_them(adata):
    fedsc.tl.pca(adata, k=3)
    assert "ari" not in adata.uns["fedsc_pca"]["scores"]
    assert adata.uns["fedsc_pca"]["scores"]["silhouette"] > 0


def test_layers_and_raw(adata):
    expected = adata.copy()
    fedsc.tl.nmf(expected, k=3, overrides={"iterations": 10})
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = adata.X.astype(np.float32) * -1.0
    for layer in ("counts", "raw"):
        fedsc.tl.nmf(adata, k=3, layer=layer, overrides={"iterations": 10})
        np.testing.assert_array_equal(adata.obsm["X_fedsc_nmf"], expected.obsm["X_fedsc_nmf"])
    with pytest.raises(DataError, match="negative"):
        fedsc.tl.nmf(adata, k=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "nope"}, "there is no layer 'nope'"),
        ({"layer": "raw"}, "there is no adata.raw"),
        ({"label_key": "typ"}, "did you mean 'type'"),
        ({"preset": "nope"}, "unknown preset 'nope'; known are practitioner, published"),
        ({"overrides": {"component": 3}}, "did you mean 'components'"),
    ],
)
def test_mistakes_are_named(adata, options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        fedsc.tl.pca(adata, k=3, **options)


def test_a_checkpoint_may_be_named_by_a_text(adata, tmp_path):
    fedsc.tl.contrastive_sc(adata, k=3, overrides={"epochs": 1}, checkpoint=str(tmp_path / "kept"))
    assert (tmp_path / "kept" / "contrastive-sc.safetensors").exists()


def test_a_device_that_is_not_there(adata):
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"device = '{device}' cannot be used"):
        fedsc.tl.contrastive_sc(adata, k=3, device=device)


def test_an_empty_adata_is_refused(adata):
    with pytest.raises(DataError, match="no cells"):
        fedsc.tl.pca(adata[:0].copy(), k=3)


def test_dense_values_do_as_sparse_ones(adata):
    dense = adata.copy()
    dense.X = dense.X.toarray()
    fedsc.tl.pca(adata, k=3)
    fedsc.tl.pca(dense, k=3)
    np.testing.assert_array_equal(adata.obsm["X_fedsc_pca"], dense.obsm["X_fedsc_pca"])
