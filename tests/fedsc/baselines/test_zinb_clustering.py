from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsc.baselines import scdeepcluster, sczidesk
from fedsc.baselines.method import Settings
from fedsc.baselines.zinb_clustering import Recipe, ZinbPreset, centres_of, fit_zinb

PRESET = ZinbPreset(
    pretraining_epochs=2, clustering_epochs=9, noise=0.5, n_genes=0, batch_size=16, tolerance=0.0
)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


def nearness(z, centres):
    return -torch.cdist(z, centres)


def recipe(**changes):
    """Give a method that adds nothing to the likelihood."""
    plain = Recipe("test", sgd, sgd, nearness, lambda weights, x, z, target: ())
    return replace(plain, **changes)


def test_centres_are_means_against_a_loop():
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = np.array([0, 2, 1, 2, 0, 1, 1, 2, 2])
    expected = [
        np.mean([z[i].numpy() for i in range(9) if labels[i] == j], axis=0) for j in (0, 1, 2)
    ]
    np.testing.assert_allclose(centres_of(z, labels), expected, rtol=1e-5)


def test_clusters_are_the_nearest_centres_and_the_first_ones_are_kept(cells):
    fitted = fit_zinb(cells(), PRESET, recipe(), 3, Settings())
    assert fitted.embedding.shape == (50, 32)
    assert set(fitted.extras["before"]) == {0, 1, 2}
    assert fitted.record["clusters"] == {"by": "nearest centre", "first by": "k-means", "k": 3}
    assert len(fitted.record["pretraining losses"]) == 2


@pytest.mark.parametrize(("every", "epochs"), [(1, 1), (4, 4), (50, 9)])
def test_training_ends_at_the_first_look_that_finds_no_change(cells, every, epochs):
    """A rate of zero changes no cluster; with a tolerance of 1 the first comparison ends it."""
    preset = replace(PRESET, tolerance=1.0)
    still = recipe(
        pretraining_optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        clustering_optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        look_every=every,
    )
    record = fit_zinb(cells(), preset, still, 3, Settings()).record
    assert len(record["losses"]) == epochs
    assert record["converged"] == (epochs < 9)


def test_a_tolerance_of_zero_never_ends_it(cells):
    record = fit_zinb(cells(), PRESET, recipe(), 3, Settings()).record
    assert (len(record["losses"]), record["converged"]) == (9, False)


def test_targets_are_made_of_all_cells_once_an_epoch_and_handed_out_by_row(cells):
    made, handed = [], []

    def target(assigned):
        made.append(assigned.clone())
        return assigned

    def losses(weights, x, z, rows):
        handed[-1:] = [torch.cat([handed[-1], rows])] if handed else [rows]
        return ()

    preset = replace(PRESET, clustering_epochs=1)
    fit_zinb(cells(), preset, recipe(target=target, clustering_losses=losses), 3, Settings())
    assert [len(m) for m in made] == [50]
    np.testing.assert_array_equal(
        np.sort(handed[0].numpy(), axis=0), np.sort(made[0].numpy(), axis=0)
    )


def test_a_methods_own_losses_are_added_to_the_likelihood(cells):
    def constant(weights, x, z, target):
        assert x.shape[1] == 60
        assert z.shape[1:] == (32,)
        return (torch.tensor(2.0), torch.tensor(0.25))

    plain = fit_zinb(cells(), PRESET, recipe(), 3, Settings()).record["losses"]
    more = fit_zinb(cells(), PRESET, recipe(clustering_losses=constant), 3, Settings())
    np.testing.assert_allclose(more.record["losses"], np.array(plain) + 2.25, rtol=1e-5)


def test_the_published_defaults():
    deep, desk = scdeepcluster.PRESETS["paper"], sczidesk.PRESETS["paper"]
    assert (deep.pretraining_epochs, deep.noise, deep.n_genes) == (300, 2.5, 0)
    assert (deep.pretraining_rate, deep.clustering_rate, deep.clustering_weight) == (1e-3, 1.0, 1.0)
    assert (desk.pretraining_epochs, desk.noise, desk.n_genes) == (1000, 1.5, 500)
    assert (desk.learning_rate, desk.look_every, desk.ridge) == (1e-4, 10, 1.0)
    assert (desk.kmeans_weight, desk.self_training_weight) == (1e-3, 1e-3)
    for preset in (deep, desk):
        assert (preset.clustering_epochs, preset.batch_size, preset.tolerance) == (2000, 256, 1e-3)
        assert preset.max_value == np.inf
