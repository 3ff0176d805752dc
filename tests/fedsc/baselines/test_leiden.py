import sys
from dataclasses import replace

import numpy as np
import pytest

from fedsc.baselines.leiden import PRESETS, Preset, fit
from fedsc.baselines.method import Settings
from fedsc.errors import ConfigError, DataError


def test_a_k_cannot_be_asked_for(cells):
    with pytest.raises(ConfigError, match="leiden finds the number of clusters itself, so k = 3"):
        fit(cells(), Preset(), 3, Settings())


def test_a_higher_resolution_gives_more_clusters(cells):
    coarse, fine = (fit(cells(), Preset(), None, Settings(resolution=r)) for r in (0.1, 3.0))
    assert len(set(fine.clusters)) > len(set(coarse.clusters))
    assert fine.record["clusters"] == {
        "by": "leiden",
        "flavor": "graspologic",
        "neighbours": 15,
        "resolution": 3.0,
        "k": len(set(fine.clusters)),
    }


def test_scanpys_route_without_igraph_says_what_to_install(cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedsc\[igraph\]'"):
        fit(cells(), PRESETS["scanpy"], None, Settings())
    assert len(fit(cells(), Preset(), None, Settings()).clusters) == 50


def test_batches_are_brought_together_by_harmonypy_where_a_column_names_them(cells):
    pytest.importorskip("harmonypy")
    expression = cells()
    batches = np.arange(len(expression.cells)) % 2
    batched = replace(expression, obs=expression.obs.assign(batch=batches.astype(str)))
    apart = fit(batched, Preset(), None, Settings())
    together = fit(batched, Preset(batch_key="batch"), None, Settings())
    assert together.record["harmony"] == "batch"
    assert together.embedding.shape == apart.embedding.shape
    assert not np.array_equal(together.embedding, apart.embedding)
    again = fit(batched, Preset(batch_key="batch"), None, Settings())
    np.testing.assert_array_equal(again.embedding, together.embedding)
    with pytest.raises(DataError, match="batch-key = 'none': obs has no such column"):
        fit(batched, Preset(batch_key="none"), None, Settings())
    batched.obs.loc[batched.obs.index[:3], "batch"] = None
    with pytest.raises(DataError, match="batch-key = 'batch': 3 of 50 cells have no value"):
        fit(batched, Preset(batch_key="batch"), None, Settings())


def test_without_harmonypy_it_says_what_to_install(cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(ConfigError, match="pip install harmonypy"):
        fit(cells(), Preset(batch_key="batch"), None, Settings())
