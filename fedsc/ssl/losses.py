"""The losses of the federated and centralised methods, each a pure function of embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def cosine_distance(p: Tensor, t: Tensor, share: Tensor | None = None) -> Tensor:
    """FedSC eq. (2), one direction: the batch mean of 2 − 2·cos(p, t).

    Parameters
    ----------
    p, t
        Prediction and target, (cells, dimensions) or (cells, views, dimensions).
    share
        Of labs that train stacked: each row's share in its lab's mean, (labs, cells); then p and
        t have a leading dimension of labs.

    Returns
    -------
    Tensor
        In [0, 4], a scalar; (labs,) where stacked.
    """
    return 2.0 - 2.0 * mean_cosine(p, t, share)


def negative_cosine(p: Tensor, t: Tensor, share: Tensor | None = None) -> Tensor:
    """SimSiam eq. (1), one direction: the batch mean of −cos(p, t).

    Parameters
    ----------
    p, t
        Prediction and target, (cells, dimensions) or (cells, views, dimensions).
    share
        Of labs that train stacked: each row's share in its lab's mean, (labs, cells); then p and
        t have a leading dimension of labs.

    Returns
    -------
    Tensor
        In [−1, 1], a scalar; (labs,) where stacked.
    """
    return -mean_cosine(p, t, share)


def mean_cosine(p: Tensor, t: Tensor, share: Tensor | None = None) -> Tensor:
    """Average the cosine of the angle between rows, with gradients written out.

    A third of the time ``F.cosine_similarity`` takes forward and backward.

    Parameters
    ----------
    p, t
        (…, dimensions), of one shape; a row of zeros has cosine 0 and no gradient.
    share
        Of labs that train stacked; then p and t are (labs, cells, …, dimensions).

    Returns
    -------
    Tensor
        In [−1, 1], a scalar; (labs,) where stacked.
    """
    if share is not None:  # of the views too, each of which counts alike
        views = p[0, 0].numel() // p.shape[-1]
        share = share.view(*share.shape, *[1] * (p.dim() - 2)) / views
    mean: Tensor = _MeanCosine.apply(p, t, share)  # type: ignore[no-untyped-call]
    return mean


class _MeanCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, t: Tensor, share: Tensor | None) -> Tensor:
        unit, shorten = [], []
        for x in (p, t):
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            shorten.append(length.reciprocal().masked_fill_(length < _SHORTEST, 0.0))
            unit.append(x * shorten[-1])
        cosine = torch.linalg.vecdot(*unit).unsqueeze_(-1)
        ctx.save_for_backward(*unit, *shorten, cosine, share)
        mean: Tensor = cosine.mean() if share is None else (cosine * share).flatten(1).sum(1)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        p, t, shorten_p, shorten_t, cosine, share = ctx.saved_tensors
        if share is None:
            of_rows = gradient / cosine.numel()
        else:
            of_rows = gradient.view(-1, *[1] * (share.dim() - 1)) * share
        found: list[Tensor | None] = [None, None, None]
        for i, (own, other, shorten) in enumerate(((p, t, shorten_p), (t, p, shorten_t))):
            if ctx.needs_input_grad[i]:
                across = torch.addcmul(other, own, cosine, value=-1)
                found[i] = across.mul_(shorten * of_rows)
        return tuple(found)


# A shorter row has no direction. F.cosine_similarity divides it by this, and so its gradient: a
# view of which all genes are hidden would move the weights of a network without norm by millions.
_SHORTEST = 1e-8


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float, share: Tensor | None = None) -> Tensor:
    """SimCLR eq. (1), NT-Xent: pick a cell's other view among all 2B − 1 other views.

    Each of the 2B embeddings is an anchor once; its denominator is its positive and the 2B − 2
    views of other cells.

    Parameters
    ----------
    z_1, z_2
        Embeddings of two views, (B, dimensions), row i of both of the same cell; any length.
    temperature
        τ > 0; similarities are cosines divided by it.
    share
        Of labs that train stacked; then embeddings are (labs, B, dimensions), and rows that only
        fill up are no one's negatives.

    Returns
    -------
    Tensor
        ≥ 0, the mean over the 2B anchors; about log(2B − 1) when nothing is learnt. A scalar;
        (labs,) where stacked.
    """
    if share is not None:
        return _stacked_nt_xent(z_1, z_2, temperature, share)
    z = F.normalize(torch.cat([z_1, z_2]), dim=1)
    logits = (z / temperature) @ z.T
    logits.fill_diagonal_(-torch.inf)  # a view is not its own negative
    positives = torch.arange(len(z), device=z.device).roll(len(z_1))
    return F.cross_entropy(logits, positives)


def _stacked_nt_xent(z_1: Tensor, z_2: Tensor, temperature: float, share: Tensor) -> Tensor:
    z_1, z_2 = (F.normalize(z, dim=-1) for z in (z_1, z_2))
    positive = (z_1 * z_2).sum(-1) / temperature
    z = torch.cat([z_1, z_2], dim=1)
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    no_candidate = itself | (share == 0).repeat(1, 2)[:, None]
    logits = ((z / temperature) @ z.mT).masked_fill(no_candidate, -torch.inf)
    anchors = torch.logsumexp(logits, dim=-1).view(len(z), 2, -1).sum(1)
    loss: Tensor = ((0.5 * anchors - positive) * share).sum(1)
    return loss


def info_nce(
    q: Tensor,
    k: Tensor,
    negatives: Tensor,
    temperature: float,
    known: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """MoCo eq. (1), InfoNCE: pick a query's own key among it and the keys of other cells.

    Equals the cross-entropy over logits [q·k, q·negatives] / τ with the positive first, written
    so that the large matrix of logits is never copied. Without negatives it is exactly 0, with
    gradient 0.

    Parameters
    ----------
    q
        Queries, (B, dimensions), any length.
    k
        Key of each query's positive, (B, dimensions), of unit length.
    negatives
        Keys shared by all queries, (n, dimensions), of unit length, ``n >= 0``.
    temperature
        τ > 0; similarities are cosines divided by it.
    known
        Of labs that train stacked: which of ``negatives``, (labs, n, dimensions), are keys, bool
        (labs, n).
    share
        Of labs that train stacked; then q and k are (labs, B, dimensions).

    Returns
    -------
    Tensor
        ≥ 0, the mean over the queries; about log(n + 1) when nothing is learnt. A scalar; (labs,)
        where stacked.
    """
    q = F.normalize(q, dim=-1) / temperature
    positive = (q * k).sum(dim=-1)
    logits = q @ negatives.mT
    if known is not None:
        logits = logits.masked_fill(~known[:, None], -torch.inf)
    rows = torch.logaddexp(positive, torch.logsumexp(logits, dim=-1)) - positive
    return rows.mean() if share is None else (rows * share).sum(1)
