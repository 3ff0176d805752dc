"""Choose highly variable genes from moments alone, as scanpy does from the matrix."""

import numpy as np

from fedsc.errors import DataError
from fedsc.federated.query import Ask, Question
from fedsc.federated.statistics import Moments

_BINS = 20
_SPAN = 0.3
_DIGITS = 10
"""Decimals of a score that count: the rest depends on how cells are spread over labs, and would
break a tie between genes differently for each spread."""


def seurat(mean: np.ndarray, variance: np.ndarray, n_genes: int) -> np.ndarray:
    """Rank genes by dispersion, standardised among genes of similar mean.

    scanpy's ``highly_variable_genes(flavor="seurat", n_top_genes=n_genes)`` (Satija et al.
    2015): log of variance over mean in 20 equal bins of log1p of the mean. A gene alone in its
    bin scores 1. Genes that tie with the last one are all kept, as scanpy does.

    Parameters
    ----------
    mean, variance
        Of every detected gene's normalised values *before* the logarithm, float64 (genes,).
    n_genes
        How many to keep.

    Returns
    -------
    np.ndarray
        bool (genes,), True for the chosen ones; all when there are not more than ``n_genes``.
    """
    if n_genes >= len(mean):
        return np.ones(len(mean), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = np.log(np.where(variance > 0, variance / mean, np.nan))
    import pandas as pd  # here: labs import this module too, a process for every answer

    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": dispersion})
    table["bin"] = pd.cut(table["mean"], bins=_BINS)
    bins = table.groupby("bin", observed=True)["dispersion"].agg(avg="mean", dev="std")
    alone = bins["dev"].isna()
    bins.loc[alone, "dev"] = bins.loc[alone, "avg"]
    bins.loc[alone, "avg"] = 0
    of_gene = bins.loc[table["bin"]]
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (dispersion - of_gene["avg"].to_numpy()) / of_gene["dev"].to_numpy()
    score = score.round(_DIGITS)
    known = np.sort(score[~np.isnan(score)])
    if not len(known):
        return np.ones(len(mean), dtype=bool)
    cutoff = known[-min(n_genes, len(known))]
    return np.asarray(score >= cutoff)  # False for NaN


def seurat_v3(ask: Ask, moments: Moments, detected: np.ndarray, n_genes: int) -> np.ndarray:
    """Rank genes by the variance of counts standardised by what their mean makes one expect.

    scanpy's ``highly_variable_genes(flavor="seurat_v3")`` (Stuart et al. 2019): loess of
    log10 variance on log10 mean, counts clipped at mean + √n of the expected standard deviations.

    Parameters
    ----------
    ask
        Answers ``"clipped-squares"`` by :func:`fedsc.federated.statistics.clipped_squares`.
    moments
        With the view ``"counts"``.
    detected
        Which genes compete, bool (V,).
    n_genes
        How many to keep.

    Returns
    -------
    np.ndarray
        bool (V,), True for the chosen ones; of genes that tie for the last place, the first.

    Raises
    ------
    DataError
        If the loess cannot be fitted (too few different means).
    """
    mean, variance, n = moments.mean["counts"], moments.variance["counts"], moments.n
    expected = np.zeros(len(mean))
    varies = detected & (variance > 0)
    expected[varies] = _loess(np.log10(mean[varies]), np.log10(variance[varies]))
    std = np.sqrt(10**expected)
    question = Question("clipped-squares", {"mean": mean, "clip": std * np.sqrt(n) + mean})
    score = (ask(question)["square"] / (np.maximum(n - 1, 1) * std**2)).round(_DIGITS)
    score[~detected] = -np.inf
    chosen = np.zeros(len(mean), dtype=bool)
    chosen[np.argsort(-score, kind="stable")[: min(n_genes, int(detected.sum()))]] = True
    return chosen


def _loess(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from skmisc.loess import loess

    model = loess(x, y, span=_SPAN, degree=2)
    try:
        model.fit()
    except ValueError as error:
        raise DataError(
            f"hvg = 'seurat_v3' cannot fit variance on mean over {len(x)} genes ({error}); "
            "set hvg = 'seurat'"
        ) from None
    return np.asarray(model.outputs.fitted_values)
