"""One map for all labs: UMAP of the micro-centres, on which each lab places its own cells."""

import numpy as np

from fedsc.federated.micro import MicroCentres
from fedsc.rng import derive_seed

_NEIGHBOURS = 15


def learn_map(micro: MicroCentres, seed: int) -> np.ndarray:
    """Draw the micro-centres in the plane, float64 (M, 2).

    They are sums that the server has already, so it asks nothing.
    """
    m = len(micro.centres)
    if m < 5:
        return np.column_stack([np.arange(m, dtype=np.float64), np.zeros(m)])
    from umap import UMAP

    drawn = UMAP(
        n_neighbors=min(_NEIGHBOURS, m - 1),
        init="pca",
        random_state=derive_seed(seed, "map") % 2**32,
        n_jobs=1,
    ).fit_transform(micro.centres)
    return np.asarray(drawn, dtype=np.float64)
