from dataclasses import replace

import numpy as np
import pytest

from fedsc.baselines.contrastive_sc import PRESETS, embed_all, fit, learning_rate, train_encoder
from fedsc.baselines.inputs import prepare
from fedsc.baselines.method import Settings
from fedsc.baselines.presets import choose
from fedsc.errors import ConfigError
from fedsc.leiden import leiden


def test_learning_rate_is_the_published_cosine():
    paper = PRESETS["paper"]
    assert learning_rate(paper, 0) == pytest.approx(0.4)
    assert learning_rate(paper, 250) == pytest.approx((0.4 + 0.0004) / 2)
    assert learning_rate(paper, 500) == pytest.approx(0.0004)


def test_the_embedding_has_unit_length_and_the_loss_falls(cells):
    fitted = fit(cells(), replace(PRESETS["steady"], epochs=20), 3, Settings())
    np.testing.assert_allclose(np.linalg.norm(fitted.embedding, axis=1), 1.0, rtol=1e-5)
    assert fitted.record["losses"][-1] < fitted.record["losses"][0]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="temperature = 0"):
        choose(PRESETS, "", {"temperature": 0})


def test_an_encoder_for_prepared_cells_is_the_one_of_the_fit(cells):
    given = cells()
    preset = replace(PRESETS["paper"], epochs=2, n_genes=30, max_value=10.0)
    prepared, _ = prepare(given, 30, 10.0)
    weights = train_encoder(prepared, preset, Settings()).weights
    assert all(name.startswith("encoder.") for name in weights)
    assert not any(tensor.requires_grad for tensor in weights.values())
    np.testing.assert_array_equal(
        embed_all(weights, prepared, "cpu"), fit(given, preset, 3, Settings()).embedding
    )


def test_the_authors_leiden_looks_at_more_neighbours(cells):
    expression, settings = cells(), Settings(resolution=1.0)
    preset = replace(PRESETS["paper"], epochs=2, n_genes=30, max_value=10.0)
    ours, theirs = (fit(expression, replace(preset, neighbours=n), None, settings) for n in (5, 40))
    np.testing.assert_array_equal(ours.embedding, theirs.embedding)
    for fitted, neighbours in ((ours, 5), (theirs, 40)):
        expected = leiden(fitted.embedding, 1.0, 0, neighbours=neighbours)
        np.testing.assert_array_equal(fitted.clusters, expected)
        assert fitted.record["clusters"]["neighbours"] == neighbours
    assert not np.array_equal(ours.clusters, theirs.clusters)
