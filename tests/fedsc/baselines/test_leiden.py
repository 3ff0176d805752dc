import sys

import pytest

from fedsc.baselines.leiden import PRESETS, Preset, fit
from fedsc.baselines.method import Settings
from fedsc.errors import ConfigError


def test_a_k_cannot_be_asked_for(cells):
    with pytest.raises(ConfigError, match="leiden finds the number of clusters itself, so k = 3"):
        fit(cells(), Preset(), 3, Settings())


def test_a_higher_resolution_gives_more_clusters(cells):
    coarse, fine = (fit(cells(), Preset(), None, Settings(resolution=r)) for r in (0.1, 3.0))
    assert len(set(fine.clusters)) > len(set(coarse.clusters))
    assert fine.record["clusters"] == {
        "by": "leiden",
        "flavor": "graspologic",
        "resolution": 3.0,
        "k": len(set(fine.clusters)),
    }


def test_scanpys_route_without_igraph_says_what_to_install(cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedsc\[igraph\]'"):
        fit(cells(), PRESETS["scanpy"], None, Settings())
    assert len(fit(cells(), Preset(), None, Settings()).clusters) == 50
