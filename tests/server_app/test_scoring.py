"""Batches within labs: columns that are none are found at once, and the pool's scores mind them."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest

from client_app.state import load_integration
from fedsc.errors import RunError
from fedsc.evaluate import kmeans, scores


@pytest.fixture
def two_files(tiny, tiny_set, tmp_path):
    """Write two labs, with batches in columns of different names; give how a run takes them."""
    cells = anndata.read_h5ad(tiny_set)
    batches = np.random.default_rng(0).integers(0, 2, cells.n_obs)
    cells.X = cells.X.multiply(1 + batches[:, None] * (np.arange(cells.n_vars) % 3 == 0)).tocsr()
    cells.obs["own"] = batches.astype(str)
    (tmp_path / "labs").mkdir()
    for lab, rows in {"A": slice(0, 40), "B": slice(40, 96)}.items():
        part = cells[rows].copy()
        part.obs = part.obs.rename(columns={"own": f"batch of {lab}"})
        part.write_h5ad(tmp_path / "labs" / f"{lab}.h5ad")
    return tiny.replace(dataset=str(tmp_path / "labs"), method="fedpca", integrate="harmony")


def say(config, text):
    """Say in ``labs.toml`` how the labs' files are read."""
    (Path(config.data.dataset) / "labs.toml").write_text(text)


@pytest.mark.parametrize("of_the_run", ["", "batch of A"])
def test_the_pool_is_scored_where_labs_have_moved_their_cells_by_batches_of_their_own(
    two_files, lead, of_the_run
):
    say(two_files, '[B]\nbatch-key = "batch of B"\n')
    config = two_files.replace(batch_key=of_the_run)
    left = lead(config)
    kept = {lab: load_integration(left.folder / "labs" / lab) for lab in "AB"}
    assert [len(kept[lab].sizes) for lab in "AB"] == [2 if of_the_run else 1, 2]
    moved = np.concatenate([state.corrected for state in kept.values()])
    clusters = kmeans(moved, 4, config.run.seed)
    found = left.scores["pooled_integrated"]
    assert found["silhouette"] == scores(moved, clusters, None)["silhouette"]


def test_a_lab_without_its_batch_column_is_left_out_before_training(two_files, lead):
    say(two_files, '[B]\nbatch-key = "batch of B"\n')
    left = lead(two_files.replace(batch_key="batches"))
    assert "A: batch-key = 'batches': obs has no such column; it has 'cell_type'" in left.log
    assert set(re.findall(r"lab A failed in ([\w.]+)", left.log)) == {"query.describe"}
    assert list(left.scores["labs"]) == ["B"]
    # The pool has the cells of A too, as those of a new lab.
    assert left.scores["pooled_integrated"]["silhouette"] > 0


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("none", "obs has no such column"),
        ("gaps", "3 of 40 cells have no value"),
        ("cells", "300 batches in one lab, at most 256"),
    ],
)
def test_a_wrong_batch_column_ends_a_run_before_training(
    two_files, tiny_set, lead, tmp_path, column, words
):
    four = anndata.concat([anndata.read_h5ad(tiny_set)] * 4, index_unique="-")
    cells = four[: 300 if column == "cells" else 40].copy()
    cells.obs["cells"] = cells.obs_names
    cells.obs["gaps"] = [None] * 3 + ["x"] * (cells.n_obs - 3)
    cells.write_h5ad(tmp_path / "A.h5ad")
    node = {"lab": "A", "data": str(tmp_path / "A.h5ad"), "batch-key": column}
    with pytest.raises(RunError, match=f"no lab can take part: .*batch-key: .*{words}"):
        lead(two_files.replace(wait_for_labs=1), [node])
