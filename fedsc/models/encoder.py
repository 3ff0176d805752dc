"""The encoder of both papers (FedSC §4.1) and its heads.

Online network W^o = encoder + projector; predictor W^p. The published predictor has width 128 and
the encoder 60 outputs, which cannot be compared; see ``docs/decisions/0002-projector.md``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsc.models.mlp import Norm, Weights, init_mlp, mlp

HIDDEN = (200, 40)
EMBEDDING = 60
PROJECTION = 128


def init_online(
    n_genes: int,
    norm: Norm,
    generator: torch.Generator,
    head: tuple[int, ...] = (EMBEDDING, PROJECTION),
) -> Weights:
    """Draw an online network: encoder genes → 200 → 40 → 60, projector of widths ``head``.

    The projector is linear 60 → 128 unless ``head`` has more layers; it is never normalised.
    """
    return {
        **init_mlp("encoder", (n_genes, *HIDDEN, EMBEDDING), norm, generator),
        **init_mlp("projector", head, "none", generator),
    }


def project(weights: Weights, x: Tensor, prefix: str = "", share: Tensor | None = None) -> Tensor:
    """Encode and project a training view, or several at once.

    Parameters
    ----------
    weights
        Holds ``{prefix}encoder`` and ``{prefix}projector``.
    x
        View, float32 (cells, genes), or views, (cells, views, genes).
    prefix
        ``""`` for the online network, ``"target."`` or ``"key."`` for its moving average.
    share
        Of labs that train stacked (:func:`fedsc.models.mlp.mlp`).

    Returns
    -------
    Tensor
        float32 (cells, 128) or (cells, views, 128), not normalised; stacked, with labs before.
    """
    return mlp(weights, x, f"{prefix}encoder", f"{prefix}projector", training=True, share=share)


def embed(weights: Weights, x: Tensor, *, unit: bool = True) -> Tensor:
    """Embed cells for clustering.

    Parameters
    ----------
    weights
        Holds the encoder.
    x
        Standardised expression without mask, float32 (cells, genes).
    unit
        L2-normalise each row.

    Returns
    -------
    Tensor
        float32 (cells, dimensions), without gradient: 60 of a trained encoder, of principal
        components as many as there are.
    """
    with torch.no_grad():
        z = mlp(weights, x, "encoder", training=False)
        return F.normalize(z, dim=1) if unit else z
