import csv
import io

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from fedsc.data.aligned import align
from fedsc.data.preprocess import log_normalise
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated.answers import answer
from fedsc.federated.clustered import Clustered
from fedsc.federated.marker_tables import as_csv, scanpy_layout
from fedsc.federated.markers import learn_markers
from fedsc.federated.query import ask_locally


@pytest.fixture(scope="module")
def expression(tiny_set):
    return read(tiny_set, ReadAs(label_key="cell_type"))


@pytest.fixture(scope="module")
def clusters(expression):
    return np.unique(expression.labels, return_inverse=True)[1]


@pytest.fixture(scope="module")
def find(expression, clusters):
    lab_of = np.arange(len(clusters)) % 3
    labs = [
        Clustered(
            align(expression.subset(np.flatnonzero(lab_of == i)), expression.genes),
            clusters[lab_of == i],
            None,
        )
        for i in range(3)
    ]
    markers = learn_markers(ask_locally(labs, answer), 4, 1e4)
    return lambda n_genes: markers.first(n_genes)


@pytest.fixture
def own_file(expression, clusters):
    """Give a lab's file with clusters; one of them has none of its cells."""
    rows = np.flatnonzero(clusters < 3)
    cells = anndata.AnnData(log_normalise(expression.matrix[rows], 1e4))
    cells.var_names = expression.genes
    names = [str(cluster) for cluster in range(4)]
    cells.obs["fedsc_cluster"] = pd.Categorical.from_codes(clusters[rows], categories=names)
    return cells


def test_csv_holds_the_table(find, expression):
    markers = find(7)
    rows = list(csv.DictReader(io.StringIO(as_csv(markers, expression.genes))))
    assert len(rows) == 4 * 7
    assert [int(row["cluster"]) for row in rows] == np.repeat(range(4), 7).tolist()
    assert [row["gene"] for row in rows] == expression.genes[markers.genes].ravel().tolist()
    for column, values in {
        "score": markers.scores,
        "pval": markers.pvals,
        "pval_adj": markers.pvals_adj,
        "logfoldchange": markers.logfoldchanges,
        "pts": markers.pts,
        "pts_rest": markers.pts_rest,
        "labs_supporting": markers.labs_supporting,
        "labs_measured": markers.labs_measured,
    }.items():
        assert [float(row[column]) for row in rows] == values.ravel().tolist()
    assert rows[0]["labs_supporting"].isdigit()


def test_csv_of_odd_names_and_of_nothing_known(find):
    markers = find(99)
    names = [f'gene, "{i}"' for i in range(60)]
    unknown = np.full_like(markers.logfoldchanges, np.nan)
    changed = type(markers)(**(vars(markers) | {"logfoldchanges": unknown}))
    rows = list(csv.DictReader(io.StringIO(as_csv(changed, names))))
    assert {row["gene"] for row in rows} == set(names)
    assert {row["logfoldchange"] for row in rows} == {""}


def test_layout_is_scanpy_s(find, expression, clusters):
    cells = anndata.AnnData(log_normalise(expression.matrix, 1e4))
    cells.var_names = expression.genes
    cells.obs["fedsc_cluster"] = pd.Categorical(clusters.astype(str))
    sc.tl.rank_genes_groups(cells, "fedsc_cluster", method="t-test", pts=True)
    theirs, ours = cells.uns["rank_genes_groups"], scanpy_layout(find(99), expression.genes)
    assert set(theirs) <= set(ours)
    assert ours["params"].items() <= theirs["params"].items()
    assert set(theirs["params"]) - set(ours["params"]) == {"layer"}  # None, which no file holds
    for name in ("names", "scores", "pvals", "pvals_adj", "logfoldchanges"):
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].shape == theirs[name].shape
    assert (ours["names"]["2"] == theirs["names"]["2"]).all()
    for name in ("pts", "pts_rest"):
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_names=False)


@pytest.mark.parametrize("n_genes", [10, 99])
def test_scanpy_draws_and_tabulates_a_lab_s_own_file(find, own_file, n_genes, tmp_path):
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    markers = find(n_genes)
    own_file.uns["rank_genes_groups"] = scanpy_layout(markers, own_file.var_names)
    own_file.write_h5ad(tmp_path / "lab.h5ad")
    for cells in (own_file, anndata.read_h5ad(tmp_path / "lab.h5ad")):
        panels = sc.pl.rank_genes_groups(cells, n_genes=5, sharey=False, show=False)
        drawn = [[text.get_text() for text in panel.texts] for panel in panels]
        assert drawn == own_file.var_names.to_numpy()[markers.genes[:, :5]].tolist()
        table = sc.get.rank_genes_groups_df(cells, group="1")
        n = markers.genes.shape[1]
        assert table["names"].tolist() == own_file.var_names[markers.genes[1]].tolist()
        np.testing.assert_allclose(table["scores"], markers.scores[1], rtol=1e-6)
        assert table["pvals_adj"].tolist() == markers.pvals_adj[1].tolist()
        assert table["pct_nz_group"].tolist() == markers.pts[1].tolist()
        assert table["pct_nz_reference"].tolist() == markers.pts_rest[1].tolist()
        held = cells.uns["rank_genes_groups"]["labs_supporting"]["1"]
        assert held.tolist() == markers.labs_supporting[1].tolist()
        assert len(table) == n
        # scanpy's dot plot fails on a category without cells, whatever the markers.
        cells.obs["fedsc_cluster"] = cells.obs["fedsc_cluster"].cat.remove_unused_categories()
        assert sc.pl.rank_genes_groups_dotplot(
            cells, groups=["0", "2"], n_genes=3, dendrogram=False, show=False
        )
    plt.close("all")
