"""Cluster an embedding and score the clusters (FedSC §4.1, mask-sc §4.1)."""

import numpy as np

METRICS = ("ari", "nmi", "silhouette", "calinski_harabasz")


def kmeans(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Cluster with scikit-learn's k-means, ten starts.

    Parameters
    ----------
    x
        Embedding, float (cells, dimensions).
    k
        Number of clusters, ``1 <= k <= cells``.
    seed
        Moves the starts.

    Returns
    -------
    np.ndarray
        int cluster of every cell, (cells,).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # Threads add in the order they finish; one thread gives the same bits every time.
    with threadpool_limits(limits=1):
        return np.asarray(KMeans(k, n_init=10, random_state=seed).fit_predict(x))


def leiden(x: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Cluster with Leiden (igraph, two iterations) on scanpy's neighbour graph of ``x``."""
    import anndata
    import scanpy as sc

    cells = anndata.AnnData(np.empty((len(x), 0), dtype=np.float32), obsm={"X": x})
    sc.pp.neighbors(
        cells,
        n_neighbors=min(15, len(x) - 1),
        use_rep="X",
        random_state=seed,
        transformer="sklearn",  # scanpy 1.11.5's own search fails above 8192 cells
    )
    sc.tl.leiden(
        cells,
        resolution=resolution,
        random_state=seed,
        flavor="igraph",
        n_iterations=2,
        directed=False,
    )
    return np.asarray(cells.obs["leiden"].astype(int))


def scores(
    x: np.ndarray, clusters: np.ndarray, labels: np.ndarray | None
) -> dict[str, float | None]:
    """Score clusters against labels, and against the embedding they were found in.

    Parameters
    ----------
    x
        Embedding, float (cells, dimensions).
    clusters
        Cluster of every cell, (cells,).
    labels
        Annotated type of every cell, (cells,), or ``None``.

    Returns
    -------
    dict
        The four :data:`METRICS`; ``None`` where one is undefined (no labels, a single cluster).
    """
    from sklearn import metrics

    separable = 1 < len(np.unique(clusters)) < len(x)
    return {
        "ari": None if labels is None else float(metrics.adjusted_rand_score(labels, clusters)),
        "nmi": None
        if labels is None
        else float(metrics.normalized_mutual_info_score(labels, clusters)),
        "silhouette": float(metrics.silhouette_score(x, clusters)) if separable else None,
        "calinski_harabasz": float(metrics.calinski_harabasz_score(x, clusters))
        if separable
        else None,
    }
