"""scDeepCluster (Tian et al. 2019): a ZINB autoencoder whose latent cells are pulled to centres.

Pretraining on the likelihood, then likelihood + KL(P‖Q), where Q are Student-t assignments to
trained centres and P is Q sharpened over all cells once an epoch, until labels stay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsc.baselines.assignments import kl_divergence, student_t, target_distribution
from fedsc.baselines.autoencoder import encode
from fedsc.baselines.inputs import Genes
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.zinb_clustering import Recipe, ZinbPreset, fit_zinb
from fedsc.data.expression import Expression
from fedsc.models.mlp import Weights
from fedsc.options import Count, NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Preset(ZinbPreset):
    """What scDeepCluster can be told, besides what :class:`ZinbPreset` has.

    Attributes
    ----------
    pretraining_rate, clustering_rate
        Learning rate of Adam on the likelihood alone, and of Adadelta on both losses.
    clustering_weight
        γ of KL(P‖Q).
    """

    pretraining_epochs: Count = 300
    noise: NonNegative = 2.5
    n_genes: Genes = 0
    pretraining_rate: Positive = 1e-3
    clustering_rate: Positive = 1.0
    clustering_weight: NonNegative = 1.0


PRESETS = {"paper": Preset()}


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Train on one file; see :func:`~fedsc.baselines.zinb_clustering.fit_zinb`."""

    def pull(weights: Weights, x: Tensor, _: Tensor, target: Tensor | None) -> tuple[Tensor]:
        assert target is not None
        assigned = student_t(encode(weights, x), weights["centres"])
        return (preset.clustering_weight * kl_divergence(target, assigned).mean(),)

    recipe = Recipe(
        "scdeepcluster",
        lambda parameters: torch.optim.Adam(
            parameters, lr=preset.pretraining_rate, amsgrad=True, fused=True
        ),
        lambda parameters: torch.optim.Adadelta(parameters, lr=preset.clustering_rate, rho=0.95),
        student_t,
        pull,
        target_distribution,
    )
    return fit_zinb(expression, preset, recipe, k, settings)
