import math

import anndata
import numpy as np
import pandas as pd

from fedsc.baselines.method import Fitted
from fedsc.baselines.outcome import additions_of, plain


def test_results_go_where_scanpy_has_them(tmp_path):
    adata = anndata.AnnData(np.zeros((3, 2)), obs=pd.DataFrame(index=["a", "b", "c"]))
    record = {"method": "mask-sc", "losses": [1.0, 0.5], "nothing": None, "FLOP / s": 3}
    fitted = Fitted(np.ones((3, 4), np.float32), np.array([0, 10, 2]), record)
    additions_of(fitted, {"x": 1}).add_to(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert found.obsm["X_fedsc_mask_sc"].shape == (3, 4)
    assert list(found.obs["fedsc_mask_sc"].cat.categories) == ["0", "2", "10"]
    assert list(found.obs["fedsc_mask_sc"]) == ["0", "10", "2"]
    assert found.uns["fedsc_mask_sc"]["method"] == "mask-sc"
    assert found.uns["fedsc_mask_sc"]["x"] == 1


def test_plain_is_strict_json():
    given = {"a": (1, math.inf), 2: [{"b": math.nan}], "c": "text"}
    assert plain(given) == {"a": [1, "inf"], "2": [{"b": "nan"}], "c": "text"}
