"""Quality control in whole runs, held against scanpy's on the pooled cells."""

import json

import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

from fedsc.errors import ConfigError, RunError

MIN_GENES, MAX_MITO, MIN_CELLS = 30, 0.2, 5


@pytest.fixture(scope="module")
def files(tiny_set, tmp_path_factory):
    """Spoil some cells of two labs: few genes, many mitochondrial counts, a rare gene."""
    rng = np.random.default_rng(5)
    cells = anndata.read_h5ad(tiny_set)
    counts = cells.X.toarray()
    counts[::9] *= rng.random(counts[::9].shape) < 0.4  # few genes
    counts[:, 58:] = rng.poisson(1, (96, 2))  # mitochondrial
    counts[::11, 58:] += 60
    counts[:, 57] = 0
    counts[:4, 57] = 3  # in few cells
    cells.X = csr_matrix(counts.astype(np.float32))
    cells.var_names = [*cells.var_names[:58], "MT-CO1", "mt-Nd1"]
    folder = tmp_path_factory.mktemp("labs")
    for name, rows in (("A", slice(0, 40)), ("B", slice(40, 96))):
        cells[rows].copy().write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="module")
def by_scanpy(files):
    """Do the same with scanpy on the pool: filter cells, then genes."""
    pool = anndata.concat([anndata.read_h5ad(files / f"{name}.h5ad") for name in "AB"])
    pool.var["mt"] = pool.var_names.str.upper().str.startswith("MT-")
    sc.pp.calculate_qc_metrics(pool, qc_vars=["mt"], percent_top=None, inplace=True)
    kept = pool[pool.obs["pct_counts_mt"] <= 100 * MAX_MITO].copy()
    sc.pp.filter_cells(kept, min_genes=MIN_GENES)
    sc.pp.filter_genes(kept, min_cells=MIN_CELLS)
    assert 40 < kept.n_obs < 85
    assert kept.n_vars < 60
    return kept


@pytest.fixture(scope="module")
def config(tiny_run, tmp_path_factory):
    return tiny_run.replace(
        method="fedpca",
        n_genes=40,
        wait_for_labs=2,
        min_genes=MIN_GENES,
        max_mito=MAX_MITO,
        min_cells_per_gene=MIN_CELLS,
        output=str(tmp_path_factory.mktemp("runs")),
    )


def nodes_of(files, state):
    return [
        {"lab": name, "data": str(files / f"{name}.h5ad"), "state": str(state / name)}
        for name in "AB"
    ]


@pytest.fixture(scope="module")
def controlled(config, files, lead, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    return lead(config, nodes_of(files, state)), state


def test_labs_keep_what_scanpy_keeps_of_the_pool(controlled, by_scanpy):
    left, _ = controlled
    told, kept = left.scores["quality"], set(by_scanpy.obs_names)
    assert (told["cells"], told["kept"]) == (96, by_scanpy.n_obs)
    assert (told["genes"], told["genes-kept"]) == (60, by_scanpy.n_vars)
    of_labs = {"A": range(40), "B": range(40, 96)}
    for lab, rows in of_labs.items():
        lost = sum(f"cell{i}" not in kept for i in rows)
        assert told["labs"][lab] == {"cells": len(rows), "left-out": lost}
        assert f"quality control leaves out {lost} more" in left.log
    assert sum(left.scores["graph"]["sizes"]) == by_scanpy.n_obs
    assert left.scores["questions"]["quality"] == 1
    vocabulary = (left.folder / "vocabulary.txt").read_text().split("\n")[:-1]
    assert vocabulary == sorted(by_scanpy.var_names)
    assert f"{by_scanpy.n_obs} of 96 cells and {by_scanpy.n_vars} of 60 genes" in left.log


def test_a_lab_s_file_says_why_a_cell_has_no_cluster(controlled, files, by_scanpy):
    _, state = controlled
    whole = anndata.concat([anndata.read_h5ad(files / f"{name}.h5ad") for name in "AB"])
    counts = whole.X.toarray()
    share = counts[:, 58:].sum(axis=1) / counts.sum(axis=1)
    few, much = (counts > 0).sum(axis=1) < MIN_GENES, share > MAX_MITO
    assert (few & much).any()
    copies = [anndata.read_h5ad(state / n / "run" / f"{n}.fedsc.h5ad") for n in "AB"]
    found = anndata.concat(copies)
    assert list(found.obs_names) == list(whole.obs_names)
    assert (found.X != whole.X).nnz == 0
    why = found.obs["fedsc_left_out"].astype(object).where(lambda x: x.notna(), "")
    expected = [
        ", ".join(n for n, fails in (("min-genes", a), ("max-mito", b)) if fails)
        for a, b in zip(few, much, strict=True)
    ]
    assert list(why) == expected
    kept = (why == "").to_numpy()
    for column in ("fedsc_cluster", "fedsc_type", "fedsc_type_share"):
        np.testing.assert_array_equal(found.obs[column].notna(), kept)
    np.testing.assert_array_equal(np.isfinite(found.obsm["X_fedsc"]).all(axis=1), kept)
    assert set(found.obs_names[kept]) == set(by_scanpy.obs_names)


def test_labs_without_the_bad_cells_have_the_same_model(
    controlled, config, files, by_scanpy, lead, tmp_path
):
    for name in "AB":
        cells = anndata.read_h5ad(files / f"{name}.h5ad")
        clean = cells[cells.obs_names.isin(by_scanpy.obs_names), by_scanpy.var_names]
        clean.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    off = config.replace(min_genes="", max_mito="", min_cells_per_gene=0, output=str(tmp_path))
    alone = lead(off, nodes_of(tmp_path, tmp_path))
    assert alone.model == controlled[0].model
    assert alone.scores["quality"] is None
    assert alone.scores["graph"] == controlled[0].scores["graph"]
    assert not (alone.folder / "quality.json").exists()


def test_a_simulation_and_a_resumed_run_leave_out_the_same(
    controlled, config, files, lead, tmp_path
):
    simulated = config.replace(dataset=str(files), output=str(tmp_path))
    first = lead(simulated)
    assert first.model == controlled[0].model
    assert first.scores["pooled"]["ari"] is not None
    kept = (first.folder / "quality.json").read_bytes()
    again = lead(simulated.replace(resume=str(first.folder)))
    assert (again.folder / "quality.json").read_bytes() == kept
    assert again.model == first.model
    assert again.scores["quality"] == first.scores["quality"]
    assert "quality" not in again.scores["questions"]  # it was not asked for again
    (first.folder / "quality.json").write_text("{}")
    with pytest.raises(RunError, match=r"quality\.json is damaged"):
        lead(simulated.replace(resume=str(first.folder)))


def test_training_sees_the_cells_that_pass(tiny_run, files, lead, tmp_path):
    config = tiny_run.replace(
        dataset=str(files), min_genes="mad", rounds=1, output=str(tmp_path), n_genes=40
    )
    left = lead(config)
    told = left.scores["quality"]
    assert 0 < told["kept"] < 96
    assert {lab["cells"] for lab in told["labs"].values()} == {40, 56}
    cells = {row["lab"]: row["cells"] for row in left.rows}
    kept = {lab: of["cells"] - of["left-out"] for lab, of in told["labs"].items()}
    assert cells == kept
    assert left.scores["questions"]["quality"] <= 9
    limits = json.loads((left.folder / "quality.json").read_text())["cell_filter"]["thresholds"]
    assert limits["min_genes"] == told["min-genes"] > 1


def test_a_lab_of_which_nothing_is_left_is_told_why(config, files, lead, tmp_path):
    bad = anndata.read_h5ad(files / "A.h5ad")
    bad.X = csr_matrix(bad.X.multiply(np.arange(60) < 20))
    bad.write_h5ad(tmp_path / "A.h5ad")
    (tmp_path / "B.h5ad").write_bytes((files / "B.h5ad").read_bytes())
    left = lead(config.replace(output=str(tmp_path)), nodes_of(tmp_path, tmp_path))
    assert list(left.scores["quality"]["labs"]) == ["B"]
    assert "none of the lab's 40 cells passes quality control" in left.log
    # Nor does a simulation of the same files end: it scores the cells that are left.
    (tmp_path / "labs").mkdir()
    for name in "AB":
        (tmp_path / f"{name}.h5ad").rename(tmp_path / "labs" / f"{name}.h5ad")
    same = lead(config.replace(dataset=str(tmp_path / "labs"), output=str(tmp_path / "runs")))
    assert same.model == left.model
    assert same.scores["pooled"]["ari"] is not None


def test_cells_of_few_counts_are_left_out(config, files, lead, tmp_path):
    counts = anndata.read_h5ad(files / "A.h5ad").X.sum(axis=1).A1
    least = float(np.median(counts))
    only = config.replace(min_genes="", max_mito="", min_cells_per_gene=0, min_counts=least)
    left = lead(only.replace(dataset=str(files), output=str(tmp_path), files=True))
    told = left.scores["quality"]
    assert told["min-counts"] == least
    assert told["labs"]["A"]["left-out"] == (counts < least).sum() > 0
    assert told["lost"] == {
        "min-genes": 0,
        "min-counts": told["cells"] - told["kept"],
        "max-mito": 0,
    }
    why = anndata.read_h5ad(left.folder / "labs" / "A.h5ad").obs["fedsc_left_out"]
    assert set(why.dropna()) == {"min-counts"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_genes", "-1"),
        ("min_genes", "0"),
        ("min_genes", "many"),
        ("min_genes", "inf"),
        ("min_counts", "0"),
        ("max_mito", 1.5),
        ("max_mito", "nan"),
        ("min_cells_per_gene", -1),
    ],
)
def test_limits_that_are_none_are_refused(tiny, change, option, value):
    with pytest.raises(ConfigError, match=option.replace("_", "-")):
        change(tiny, **{option: value})


def test_log_normalised_values_are_refused(tiny, change, lead, tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    cells.write_h5ad(tmp_path / "log.h5ad")
    with pytest.raises(ConfigError, match="need raw counts"):
        lead(change(tiny, dataset=str(tmp_path / "log.h5ad"), min_genes=5))
