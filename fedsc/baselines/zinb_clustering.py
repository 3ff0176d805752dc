"""The two phases that scDeepCluster and scziDesk share.

First the ZINB autoencoder is trained alone. Its latent cells are clustered, and it is trained on
together with the clusters' centres, until hardly a cell changes its cluster.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsc.baselines import autoencoder
from fedsc.baselines.autoencoder import encode, encode_all, likelihood_loss
from fedsc.baselines.checkpoint import fingerprint
from fedsc.baselines.clustering import cluster
from fedsc.baselines.dense import dense
from fedsc.baselines.inputs import Clip, Counts, Genes, counts_of, prepare
from fedsc.baselines.loop import BatchLoss, OptimizerOf, Phase, train
from fedsc.baselines.method import Fitted, Settings
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix
from fedsc.models.mlp import Weights
from fedsc.options import Count, NonNegative, Share
from fedsc.rng import torch_generator


@dataclass(frozen=True, kw_only=True)
class ZinbPreset:
    """What both methods can be told.

    Attributes
    ----------
    pretraining_epochs, clustering_epochs
        On the likelihood alone; at most, on all losses.
    batch_size
        Cells per step.
    tolerance
        Stop when a smaller share of the cells changed its cluster.
    noise
        Standard deviation of what is added to the standardised input.
    n_genes, max_value
        Highly variable genes, 0 = all; clip of standardised values.
    """

    pretraining_epochs: Count
    clustering_epochs: Count = 2000
    batch_size: Count = 256
    tolerance: Share = 1e-3
    noise: NonNegative
    n_genes: Genes
    max_value: Clip = float("inf")


@dataclass(frozen=True)
class Recipe:
    """What tells one method from the other.

    Attributes
    ----------
    method
        Its name.
    pretraining_optimizer, clustering_optimizer
        Of the two phases.
    assign
        From latent cells (cells, dimensions) and centres (k, dimensions) to how near each cell is
        to each centre, (cells, k), in whatever unit; the largest is the cell's cluster.
    clustering_losses
        From the weights (``centres`` among them), a batch (cells, genes), the latent of its noisy
        version (cells, 32) and the batch's rows of ``target`` to weighted scalars, which are
        added to the likelihood.
    target
        From what ``assign`` gave of all cells to what the next epochs aim at, (cells, k);
        ``None``: the losses need none, and no one looks before the first epoch.
    look_every
        Epochs from one look at all cells' clusters to the next; 1 where there is a target.
    ridge
        λ of the penalty on the dropout probability.
    """

    method: str
    pretraining_optimizer: OptimizerOf
    clustering_optimizer: OptimizerOf
    assign: Callable[[Tensor, Tensor], Tensor]
    clustering_losses: Callable[[Weights, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]
    target: Callable[[Tensor], Tensor] | None = None
    look_every: int = 1
    ridge: float = 0.0


def fit_zinb(
    expression: Expression, preset: ZinbPreset, recipe: Recipe, k: int | None, settings: Settings
) -> Fitted:
    """Train on one file; the nearest centres are the clusters, the latent cells the embedding.

    Raises
    ------
    ConfigError
        If k is impossible.
    DataError
        If the file holds no raw counts, or too few cells.
    RunError
        If the checkpoint is of something else, or training diverged.
    """
    cells, preprocessing = prepare(expression, preset.n_genes, preset.max_value)
    counts = counts_of(expression, preprocessing, recipe.method)
    weights = autoencoder.init(cells.n_genes, settings.seed)
    training = _Training(cells, counts, preset, recipe, weights, settings)

    def phase(name: str, order: str, n_epochs: int, optimizer_of: OptimizerOf) -> Phase:
        return Phase(
            f"{recipe.method}-{name}",
            (recipe.method, order),
            cells.n_cells,
            preset.batch_size,
            n_epochs,
            optimizer_of,
        )

    pretrained = train(
        phase(
            "pretraining",
            "pretraining batches",
            preset.pretraining_epochs,
            recipe.pretraining_optimizer,
        ),
        weights,
        training.pretraining,
        settings,
        fingerprint(cells, preset, settings.seed),
    )
    z = encode_all(weights, cells, settings.device)
    first, choice = cluster(z.cpu().numpy(), k, settings)
    weights["centres"] = centres_of(z, first)
    weights["labels"] = torch.from_numpy(first.astype(np.int64))
    clustered = train(
        phase("clustering", "batches", preset.clustering_epochs, recipe.clustering_optimizer),
        weights,
        training.clustering,
        settings,
        fingerprint(cells, preset, settings.seed, k, settings.resolution, choice["k"]),
    )
    z = encode_all(weights, cells, settings.device)
    labels = recipe.assign(z, weights["centres"]).argmax(dim=1)
    record = {
        "genes": cells.n_genes,
        "pretraining losses": pretrained.losses,
        "losses": clustered.losses,
        "converged": len(clustered.losses) < preset.clustering_epochs,
        "clusters": choice | {"first by": choice["by"], "by": "nearest centre"},
    }
    return Fitted(z.cpu().numpy(), labels.cpu().numpy(), record, {"before": first})


def centres_of(z: Tensor, labels: np.ndarray) -> Tensor:
    """Give the mean of every cluster, float32 (k, dimensions), on ``z``'s device."""
    return torch.stack([z[torch.from_numpy(labels == j)].mean(dim=0) for j in np.unique(labels)])


@dataclass(frozen=True)
class _Training:
    """The losses of both phases' epochs."""

    cells: CellMatrix
    counts: Counts
    preset: ZinbPreset
    recipe: Recipe
    weights: Weights
    settings: Settings

    def pretraining(self, number: int) -> BatchLoss:
        draws = self._draws("pretraining", number)
        return lambda rows: self._likelihood(rows, dense(self.cells, rows, self._device), draws)[0]

    def clustering(self, number: int) -> BatchLoss | None:
        """Give the loss of an epoch; ``None`` once the clusters stay."""
        recipe, weights = self.recipe, self.weights
        target = None
        if number % recipe.look_every == 0 and (number > 0 or recipe.target):
            with torch.no_grad():
                z = encode_all(weights, self.cells, self._device)
                assigned = recipe.assign(z, weights["centres"])
            labels = assigned.argmax(dim=1)
            if number > 0 and _changed(labels, weights["labels"]) < self.preset.tolerance:
                return None
            weights["labels"] = labels
            target = recipe.target(assigned) if recipe.target else None
        draws = self._draws("noise", number)

        def loss(rows: np.ndarray) -> Tensor:
            x = dense(self.cells, rows, self._device)
            likelihood, z = self._likelihood(rows, x, draws)
            of_rows = None if target is None else target[torch.from_numpy(rows).to(self._device)]
            return sum(recipe.clustering_losses(weights, x, z, of_rows), likelihood)

        return loss

    def _likelihood(
        self, rows: np.ndarray, x: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Give the ZINB loss of some cells, and the latent of their noisy version."""
        z = encode(self.weights, autoencoder.noisy(x, self.preset.noise, draws))
        counts = torch.from_numpy(self.counts.matrix[rows].toarray()).to(self._device)
        sizes = torch.from_numpy(self.counts.sizes[rows]).to(self._device)
        return likelihood_loss(self.weights, z, counts, sizes, self.recipe.ridge), z

    def _draws(self, purpose: str, number: int) -> torch.Generator:
        method, seed = self.recipe.method, self.settings.seed
        return torch_generator(seed, method, purpose, number, device=self._device)

    @property
    def _device(self) -> str:
        return self.settings.device


def _changed(labels: Tensor, before: Tensor) -> float:
    """Give the share of cells whose label changed."""
    return float((labels != before).float().mean())
