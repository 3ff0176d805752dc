"""One map for all labs: UMAP of the micro-centres, on which each lab places its own cells.

A cell's place is the mean of its nearest centres' by its soft weights
(:func:`fedsc.federated.micro.weigh`): twelve centres, so cells do not lie upon them.
"""

import numpy as np

from fedsc.federated.micro import MicroCentres
from fedsc.rng import derive_seed

_NEIGHBOURS = 30
"""Of a centre, of all cuttings together: each cutting has about seven in the same region."""


def learn_map(micro: MicroCentres, seed: int) -> np.ndarray:
    """Draw the micro-centres in the plane, float64 (M, 2).

    They are sums that the server has already, so it asks nothing. One thread: the same centres
    and seed give the same bits.

    Parameters
    ----------
    micro
        The centres.
    seed
        Moves the layout.
    """
    m = len(micro.centres)
    if m < 5:
        return np.column_stack([np.arange(m, dtype=np.float64), np.zeros(m)])
    from umap import UMAP

    # The plane of the start needs two dimensions.
    flat = max(0, 2 - micro.centres.shape[1])
    drawn = UMAP(
        n_neighbors=min(_NEIGHBOURS, m - 1),
        init="pca",
        random_state=derive_seed(seed, "map") % 2**32,
        n_jobs=1,
    ).fit_transform(np.pad(micro.centres, ((0, 0), (0, flat))))
    return np.asarray(drawn, dtype=np.float64)
