"""Soft assignments and similarities that the deep clustering methods train on.

scDeepCluster (Tian et al. 2019) takes Student's t and KL(P‖Q) from DEC (Xie et al. 2016); scziDesk
(Chen et al. 2020) has a weighted soft k-means and the same self-training on pairs of cells.
"""

import torch
from torch import Tensor

_LEAST = 1e-12  # below it a probability adds nothing to a KL divergence, and its log is kept finite


def squared_distances(z: Tensor, centres: Tensor) -> Tensor:
    """Give ‖z_i − c_j‖², float32 (cells, centres); directly, since z² − 2zc + c² cancels."""
    return (z[:, None] - centres).square().sum(dim=2)


def student_t(z: Tensor, centres: Tensor) -> Tensor:
    """Assign cells to centres by Student's t with one degree of freedom (scDeepCluster eq. (9)).

    Parameters
    ----------
    z
        Latent cells, (cells, dimensions).
    centres
        Cluster centres, (k, dimensions).

    Returns
    -------
    Tensor
        q_ij, (cells, k); rows sum to 1.
    """
    closeness = 1.0 / (1.0 + squared_distances(z, centres))
    return closeness / closeness.sum(dim=1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    """Sharpen assignments and even out cluster sizes: p_ij ∝ q_ij² / Σ_i q_ij (eq. (10)).

    Parameters
    ----------
    q
        Soft assignments, (cells, k).

    Returns
    -------
    Tensor
        p_ij, (cells, k), rows sum to 1, no gradient.
    """
    q = q.detach()
    sharp = q.square() / q.sum(dim=0)
    return sharp / sharp.sum(dim=1, keepdim=True)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Give Σ_j p_ij log(p_ij / q_ij) of every row, (rows,); where p is 0 it adds 0."""
    return (p * (p.clamp_min(_LEAST).log() - q.clamp_min(_LEAST).log())).sum(dim=1)


def soft_kmeans(z: Tensor, centres: Tensor) -> Tensor:
    """Give scziDesk's weighted soft k-means loss: mean over cells of Σ_j w_ij ‖z_i − c_j‖².

    The weights are w_ij ∝ (softmax_j of −‖z_i − c_j‖²)², that is softmax of −2‖z_i − c_j‖².

    Parameters
    ----------
    z
        Latent cells, (cells, dimensions).
    centres
        Cluster centres, (k, dimensions).

    Returns
    -------
    Tensor
        Scalar ≥ 0.
    """
    distances = squared_distances(z, centres)
    return (soft_kmeans_weights(distances) * distances).sum(dim=1).mean()


def soft_kmeans_weights(distances: Tensor) -> Tensor:
    """Give w_ij of :func:`soft_kmeans` from squared distances, (cells, k); rows sum to 1."""
    return torch.softmax(-2.0 * distances, dim=1)


def pair_similarities(z: Tensor) -> Tensor:
    """Compare every cell of a batch with every other by Student's t.

    Parameters
    ----------
    z
        Latent cells, (cells, dimensions), at least two.

    Returns
    -------
    Tensor
        (cells, cells); rows sum to 1, the diagonal is 0.
    """
    others = 1.0 - torch.eye(len(z), dtype=z.dtype, device=z.device)
    closeness = others / (1.0 + squared_distances(z, z))
    return closeness / closeness.sum(dim=1, keepdim=True)


def pair_self_training(z: Tensor) -> Tensor:
    """Give scziDesk's self-training loss: Σ_i KL(q_i ‖ p_i), summed over the cells of the batch.

    p are the similarities, q ∝ p² the same, sharpened and held fixed, as self-training has it since
    DEC. (The published code lets the gradient through q too, which undoes the clusters it starts
    from; see ``docs/results/centralised-notes.md``.) Fewer than two cells have none: 0.
    """
    if len(z) < 2:
        return z.sum() * 0.0
    p = pair_similarities(z)
    q = (p.square() / p.square().sum(dim=1, keepdim=True)).detach()
    return kl_divergence(q, p).sum()
