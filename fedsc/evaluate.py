"""Cluster an embedding and score the clusters (FedSC §4.1, mask-sc §4.1)."""

import numpy as np

from fedsc.rng import numpy_generator

AGREEMENT = ("ari", "nmi", "rare_f1")
"""Scores against labels."""

METRICS = (*AGREEMENT, "silhouette", "calinski_harabasz")

SAMPLED_FROM = "silhouette_sampled_from"

SILHOUETTE_CELLS = 10_000
"""Of more cells the silhouette is that of so many, drawn: it compares every cell with every other,
5 CPU hours of a million."""

_RARE = 3  # types that count as rare


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
        Annotated type of every cell, str (cells,), or ``None``. A cell without one (``""``) counts
        in the shape of the clusters, not in their agreement with labels.

    Returns
    -------
    dict
        The :data:`METRICS`; ``None`` where one is undefined (no labels, a single cluster). Where
        the silhouette is of a sample, besides ``silhouette_sampled_from``, the number of cells
        the sample is drawn from.
    """
    from sklearn import metrics

    separable = 1 < len(np.unique(clusters)) < len(x)
    rows = silhouette_rows(len(x))
    sampled = separable and len(rows) < len(x)
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    if labels is not None and (known := labels != "").any():
        pair = labels[known], clusters[known]
        found["ari"] = float(metrics.adjusted_rand_score(*pair))
        found["nmi"] = float(metrics.normalized_mutual_info_score(*pair))
        found["rare_f1"] = rare_type_f1(metrics.cluster.contingency_matrix(*pair))
    if separable:
        found["silhouette"] = _silhouette(x[rows], clusters[rows])
        found["calinski_harabasz"] = float(metrics.calinski_harabasz_score(x, clusters))
    return {**found, SAMPLED_FROM: len(x)} if sampled else found


def silhouette_rows(n_cells: int) -> np.ndarray:
    """Say of which cells the silhouette is: of all, or of :data:`SILHOUETTE_CELLS` in their order.

    The sample depends on the number of cells alone, so that methods are compared on the same.

    Returns
    -------
    np.ndarray
        int64, ascending.
    """
    if n_cells <= SILHOUETTE_CELLS:
        return np.arange(n_cells)
    generator = numpy_generator(0, "silhouette")
    return np.sort(generator.choice(n_cells, SILHOUETTE_CELLS, replace=False))


def _silhouette(x: np.ndarray, clusters: np.ndarray) -> float | None:
    from sklearn.metrics import silhouette_score

    # A sample can have lost all clusters but one.
    separable = 1 < len(np.unique(clusters)) < len(x)
    return float(silhouette_score(x, clusters)) if separable else None


def rare_type_f1(table: np.ndarray) -> float | None:
    """Say how well clusters find the three rarest types: the mean of their best F1.

    A type's best F1 is that of the cluster which, taken as the type, has the highest harmonic mean
    of precision and recall.

    Parameters
    ----------
    table
        Cells by type and cluster, int (types, clusters); types without a cell do not count, all
        those as rare as the third do.

    Returns
    -------
    float or None
        ``None`` where no cell has a type.
    """
    table = table[table.any(axis=1)]
    if not table.size:
        return None
    cells = table.sum(axis=1)
    f1 = 2 * table / (cells[:, None] + np.maximum(table.sum(axis=0), 1))
    rarest = cells <= np.sort(cells)[:_RARE][-1]
    return float(f1[rarest].max(axis=1).mean())
