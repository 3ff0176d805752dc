"""scziDesk (Chen et al. 2020): ZINB with ridge, weighted soft k-means, self-training on pairs.

Where the paper is silent its published code is followed: both clustering losses act on the latent
of the noisy input, self-training is summed over a batch, and labels are compared every tenth epoch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsc.baselines.assignments import pair_self_training, soft_kmeans, squared_distances
from fedsc.baselines.inputs import Genes
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.zinb_clustering import Recipe, ZinbPreset, fit_zinb
from fedsc.data.expression import Expression
from fedsc.models.mlp import Weights
from fedsc.options import Count, NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Preset(ZinbPreset):
    """What scziDesk can be told, besides what :class:`ZinbPreset` has.

    Attributes
    ----------
    learning_rate
        Of Adam, in both phases.
    look_every
        Epochs from one comparison of the clusters to the next.
    kmeans_weight, self_training_weight
        Of the two clustering losses.
    ridge
        λ of the penalty on the dropout probability.
    """

    pretraining_epochs: Count = 1000
    noise: NonNegative = 1.5
    n_genes: Genes = 500
    learning_rate: Positive = 1e-4
    look_every: Count = 10
    kmeans_weight: NonNegative = 1e-3
    self_training_weight: NonNegative = 1e-3
    ridge: NonNegative = 1.0


PRESETS = {"paper": Preset()}


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Train on one file; see :func:`~fedsc.baselines.zinb_clustering.fit_zinb`."""

    def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=preset.learning_rate, fused=True)

    def losses(weights: Weights, _: Tensor, z: Tensor, __: Tensor | None) -> tuple[Tensor, Tensor]:
        return (
            preset.kmeans_weight * soft_kmeans(z, weights["centres"]),
            preset.self_training_weight * pair_self_training(z),
        )

    recipe = Recipe(
        "sczidesk",
        adam,
        adam,
        lambda z, centres: -squared_distances(z, centres),
        losses,
        look_every=preset.look_every,
        ridge=preset.ridge,
    )
    return fit_zinb(expression, preset, recipe, k, settings)
