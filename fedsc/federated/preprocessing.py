"""Learn the preprocessing of the pool from sums: library size, genes, means and scales.

The result equals scanpy's on the pooled matrix (FedSC §3.1, §4.1).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsc.data.aligned import Aligned, align
from fedsc.data.columns import standard_deviation
from fedsc.data.expression import Kind, LabCells
from fedsc.data.genes import agree, read_reference
from fedsc.data.preprocess import Preprocessing
from fedsc.errors import DataError
from fedsc.federated.bounds import Agreement, Check
from fedsc.federated.hvg import seurat, seurat_v3
from fedsc.federated.medians import agree_on_histograms, check_histograms
from fedsc.federated.query import Ask, Question, Sums, ask_locally
from fedsc.federated.statistics import (
    agree_on_genes,
    check_moments,
    check_squares,
    clipped_squares,
    gene_moments,
    learn_moments,
    library_size_counts,
    median_library_size,
)
from fedsc.options import DataOptions

ANSWERS: dict[str, Callable[[Aligned, Question], Sums]] = {
    "library-sizes": library_size_counts,
    "gene-moments": gene_moments,
    "clipped-squares": clipped_squares,
}


def learn_preprocessing(
    ask: Ask, vocabulary: Sequence[str] | np.ndarray, kind: Kind, options: DataOptions
) -> Preprocessing:
    """Ask the labs for the sums that fix the preprocessing.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :data:`ANSWERS`, each with its cells aligned to
        ``vocabulary``.
    vocabulary
        The genes the labs agreed on, (V,).
    kind
        What every lab holds: raw counts or log-normalised values.
    options
        ``target_sum``, ``n_genes``, ``hvg``, ``max_value`` count here.

    Returns
    -------
    Preprocessing
        Two to seven questions later.

    Raises
    ------
    DataError
        If no lab has a cell with counts, or the data do not suit ``hvg``.
    ConfigError
        If ``hvg`` needs a package that is missing.
    """
    if options.hvg == "seurat_v3" and kind != "counts":
        raise DataError(
            "hvg = 'seurat_v3' needs raw counts and the labs hold log-normalised values; "
            "set hvg = 'seurat'"
        )
    target_sum = 0.0
    if kind == "counts":
        target_sum = options.target_sum or median_library_size(ask)
    by_counts = options.hvg == "seurat_v3"
    views = ("log", "counts") if by_counts else ("log", "linear")
    moments = learn_moments(ask, views, len(vocabulary), target_sum)
    detected = moments.detected > 0
    if not detected.any():
        raise DataError("no lab has a cell with counts in the shared genes")

    if by_counts:
        chosen = seurat_v3(ask, moments, detected, options.n_genes)
    else:
        chosen = np.zeros(len(vocabulary), dtype=bool)
        chosen[detected] = seurat(
            moments.mean["linear"][detected], moments.variance["linear"][detected], options.n_genes
        )
    names = [str(gene) for gene in vocabulary]
    return Preprocessing(
        genes=tuple(names[i] for i in np.flatnonzero(chosen)),
        mean=moments.mean["log"][chosen],
        std=standard_deviation(moments.variance["log"][chosen]),
        target_sum=target_sum,
        max_value=options.max_value,
        vocabulary=tuple(names),
    )


def fit_preprocessing(
    labs: Mapping[str, LabCells] | Sequence[LabCells], options: DataOptions
) -> Preprocessing:
    """Do the same over labs in this process; with one lab, what a centralised baseline uses.

    Parameters
    ----------
    labs
        By name, or in a row; then they are ``lab-0``, …
    options
        As for :func:`learn_preprocessing`.

    Raises
    ------
    DataError
        If labs mix raw counts and log-normalised values, their genes cannot be joined
        (:func:`fedsc.data.genes.agree`), or as :func:`learn_preprocessing`.
    """
    if not isinstance(labs, Mapping):
        labs = {f"lab-{i}": lab for i, lab in enumerate(labs)}
    kinds = {lab.kind for lab in labs.values()}
    if len(kinds) != 1:
        raise DataError(
            f"labs hold {' and '.join(sorted(kinds)) or 'nothing'}; all must hold raw counts or "
            "all log-normalised values"
        )
    vocabulary = agreed({name: lab.genes for name, lab in labs.items()}, options)
    aligned = [align(lab, vocabulary) for lab in labs.values()]
    ask = ask_locally(aligned, lambda lab, question: ANSWERS[question.name](lab, question))
    return learn_preprocessing(ask, vocabulary, kinds.pop(), options)


def agreed(gene_lists: Mapping[str, np.ndarray], options: DataOptions) -> np.ndarray:
    """Give the genes a run uses, as its options say; see :func:`fedsc.data.genes.agree`.

    Parameters
    ----------
    gene_lists
        Genes of every lab, by name.
    options
        Their ``genes``, ``reference_genes`` and ``min_shared_genes``.
    """
    by_list = options.genes == "reference"
    reference = read_reference(Path(options.reference_genes)) if by_list else None
    return agree(gene_lists, options.genes, reference, options.min_shared_genes)


CHECKS: dict[str, Check] = {
    "library-sizes": check_histograms,
    "gene-moments": check_moments,
    "clipped-squares": check_squares,
}

AGREEMENTS: dict[str, Agreement] = {
    "library-sizes": agree_on_histograms,
    "gene-moments": agree_on_genes,
}
