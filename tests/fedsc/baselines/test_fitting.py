import json
import platform
from dataclasses import replace

import numpy as np
import pytest

import fedsc
from fedsc.baselines.fitting import fit, require_device, resolve_k, score
from fedsc.baselines.method import Fitted, Settings
from fedsc.errors import ConfigError, DataError


def test_the_record_says_all_there_is_to_say(cells):
    settings = Settings(seed=4, preset="steady", overrides={"epochs": 2})
    record = fit("contrastive-sc", cells(), settings, "true").record
    assert json.loads(json.dumps(record)) == record
    assert record["method"] == "contrastive-sc"
    assert (record["seed"], record["device"]) == (4, "cpu")
    assert record["preset"]["epochs"] == 2
    assert record["preset"]["learning_rate"] == 1e-3
    assert record["k is"] == "TAKEN FROM THE LABELS (3 types in 'type')"
    assert record["clusters"] == {"by": "k-means", "k": 3}
    assert record["scores"]["labelled cells"] == 50
    assert record["seconds"] > 0
    assert record["versions"]["fedsc"] == fedsc.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert set(record["versions"]) >= {"numpy", "scikit_learn", "torch"}


def test_an_unknown_method_names_those_there_are(cells):
    with pytest.raises(ConfigError, match="unknown method 'nope'; known are pca, leiden, nmf"):
        fit("nope", cells(), Settings())


@pytest.mark.parametrize(
    ("k", "expected"),
    [("auto", (None, "chosen by Leiden, labels not looked at")), (" 7 ", (7, "given")),
     (3, (3, "given")), ("TRUE", (3, "TAKEN FROM THE LABELS (3 types in 'type')"))],
)  # fmt: skip
def test_k_can_be_given_chosen_or_taken_from_the_labels(k, expected, cells):
    assert resolve_k(k, cells()) == expected


@pytest.mark.parametrize("k", [0, -1, "many", "2.5", "", "²"])
def test_an_impossible_k(k, cells):
    with pytest.raises(ConfigError, match="should be a number of clusters, 'auto' or 'true'"):
        resolve_k(k, cells())


def test_a_true_k_needs_labels(cells):
    with pytest.raises(DataError, match="none are known"):
        resolve_k("true", replace(cells(), label_key=""))


def test_scores_against_labels_count_the_labelled_cells(cells):
    given = cells()
    half = given.obs.assign(type=given.obs["type"].where(np.arange(50) % 2 == 0))
    clusters = given.labels.astype(int)
    clusters[1::2] = 0  # wrong where nobody knows
    fitted = Fitted(given.matrix.toarray(), clusters, {})
    assert score(fitted, given)["ari"] < 1
    found = score(fitted, replace(given, obs=half))
    assert (found["ari"], found["labelled cells"], found["cells"], found["k"]) == (1.0, 25, 50, 3)
    alone = score(fitted, replace(given, label_key=""))
    assert (alone["ari"], alone["nmi"], alone["labelled cells"]) == (None, None, 0)
    assert alone["silhouette"] == found["silhouette"]


def test_a_device_that_is_not_there():
    require_device("cpu")
    with pytest.raises(ConfigError, match="device = 'nonsense' cannot be used"):
        require_device("nonsense")
