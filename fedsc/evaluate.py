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
