import anndata
import numpy as np
import pytest

from fedsc.data.annotated import add_clusters, storable, write_annotated
from fedsc.data.reading.read import read
from fedsc.errors import RunError


@pytest.fixture
def cells(tiny_set):
    return anndata.read_h5ad(tiny_set)


def test_all_clusters_are_categories_also_those_with_no_cell_here(cells, tmp_path):
    add_clusters(cells, np.zeros((96, 3)), np.full(96, 2), 4, {"k": 4})
    cells.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(back.obs["fedsc_cluster"].cat.categories) == ["0", "1", "2", "3"]
    assert set(back.obs["fedsc_cluster"]) == {"2"}
    assert back.obsm["X_fedsc"].dtype == np.float32
    assert back.uns["fedsc"]["k"] == 4


def test_results_of_an_earlier_run_are_replaced_or_go(cells):
    add_clusters(cells, np.zeros((96, 3)), np.zeros(96, dtype=int), 4, {})
    add_clusters(cells, np.ones((96, 5)), np.ones(96, dtype=int), 2, {"run": "b"})
    assert list(cells.obs["fedsc_cluster"].cat.categories) == ["0", "1"]
    assert cells.obsm["X_fedsc"].shape == (96, 5)
    add_clusters(cells, np.ones((96, 5)), None, 0, {})
    assert "fedsc_cluster" not in cells.obs
    assert "cell_type" in cells.obs


def test_what_an_h5ad_cannot_hold_is_left_out_or_turned(tmp_path, cells):
    cells.uns["fedsc"] = storable({"none": None, "a/b": {"list": [1, 2]}, "text": "x"})
    cells.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad").uns["fedsc"]
    assert set(back) == {"a per b", "text"}
    assert back["a per b"]["list"].tolist() == [1, 2]


def test_a_copy_that_cannot_be_written_leaves_nothing(tiny_set, tmp_path, monkeypatch):
    def write(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", write)
    with pytest.raises(RunError, match=r"cannot write .*out\.h5ad: No space left"):
        write_annotated(tiny_set, tmp_path / "out.h5ad", read(tiny_set), lambda cells: None)
    assert not list(tmp_path.iterdir())
