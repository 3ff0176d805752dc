import anndata
import numpy as np

from fedsc.data.additions import Annotation, additions_of, storable


def _results(**more):
    given = {"embedding": np.zeros((96, 3)), "clusters": np.full(96, 2), "k": 4, "about": {"k": 4}}
    return Annotation(**given | more)


def add_results(cells, annotation):
    additions_of(annotation).add_to(cells)


def _written(cells, tmp_path):
    cells.write_h5ad(tmp_path / "out.h5ad")
    return anndata.read_h5ad(tmp_path / "out.h5ad")


def test_all_clusters_are_categories_also_those_with_no_cell_here(cells, tmp_path):
    add_results(cells, _results())
    back = _written(cells, tmp_path)
    assert list(back.obs["fedsc_cluster"].cat.categories) == ["0", "1", "2", "3"]
    assert set(back.obs["fedsc_cluster"]) == {"2"}
    assert back.obsm["X_fedsc"].dtype == np.float32
    assert back.uns["fedsc"]["k"] == 4
    assert set(back.obs) == {"cell_type", "donor", "fedsc_cluster"}
    assert set(back.obsm) == {"X_fedsc"}


def test_types_and_their_shares_follow_clusters_and_cells_have_places(cells, tmp_path):
    clusters = np.arange(96) % 3
    types, shares = ("T cell", "unknown", "T cell", "B cell"), np.array([0.9, 0.2, 0.7, 1.0])
    places = np.random.default_rng(0).normal(size=(96, 2))
    add_results(cells, _results(clusters=clusters, types=types, shares=shares, places=places))
    back = _written(cells, tmp_path)
    assert list(back.obs["fedsc_type"]) == [types[c] for c in clusters]
    assert back.obs["fedsc_type"].cat.categories.tolist() == ["B cell", "T cell", "unknown"]
    np.testing.assert_array_equal(back.obs["fedsc_type_share"], shares[clusters])
    assert back.obsm["X_fedsc_umap"].dtype == np.float32
    np.testing.assert_allclose(back.obsm["X_fedsc_umap"], places, rtol=1e-6)


def test_results_of_an_earlier_run_are_replaced_or_go(cells):
    full = {"types": ("a",) * 4, "shares": np.ones(4), "places": np.zeros((96, 2))}
    add_results(cells, _results(**full, markers={"params": {"groupby": "fedsc_cluster"}}))
    embedding, clusters = np.ones((96, 5)), np.ones(96, dtype=int)
    add_results(cells, _results(embedding=embedding, clusters=clusters, k=2, about={"run": "b"}))
    assert list(cells.obs["fedsc_cluster"].cat.categories) == ["0", "1"]
    assert cells.obsm["X_fedsc"].shape == (96, 5)
    assert set(cells.obs) == {"cell_type", "donor", "fedsc_cluster"}
    assert set(cells.obsm) == {"X_fedsc"}
    assert set(cells.uns) == {"fedsc"}
    assert cells.uns["fedsc"] == {"run": "b"}


def test_markers_of_somebody_else_stay_where_there_are_none_of_ours(cells):
    theirs = {"params": {"groupby": "cell_type"}}
    cells.uns["rank_genes_groups"] = theirs
    add_results(cells, _results())
    assert cells.uns["rank_genes_groups"] is theirs
    ours = {"params": {"groupby": "fedsc_cluster"}}
    add_results(cells, _results(markers=ours))
    assert cells.uns["rank_genes_groups"] is ours


def test_what_an_h5ad_cannot_hold_is_left_out_or_turned(tmp_path, cells):
    cells.uns["fedsc"] = storable({"none": None, "a/b": {"list": [1, 2]}, "text": "x"})
    cells.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad").uns["fedsc"]
    assert set(back) == {"a per b", "text"}
    assert back["a per b"]["list"].tolist() == [1, 2]
