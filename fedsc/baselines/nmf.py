"""scRNA (Mieth et al. 2019): non-negative factors, learnt on another set where there is one.

With a source its gene factors are kept and only the cell factors of the target are solved for;
without one it is plain NMF of the raw counts, which is what the papers' "scRNA" row is. A cell
belongs to its largest factor. Gene factors are scaled to sum 1, so that a cell's factors are
comparable: NMF leaves the scale between the two open.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.baselines import leiden
from fedsc.baselines.clustering import require_k
from fedsc.baselines.inputs import columns
from fedsc.baselines.method import Fitted, Settings
from fedsc.data.expression import Expression
from fedsc.data.genes import agree
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.errors import DataError
from fedsc.options import Count, DataOptions
from fedsc.rng import derive_seed


@dataclass(frozen=True)
class Preset:
    """What NMF can be told.

    Attributes
    ----------
    iterations
        Most sweeps of coordinate descent.
    source
        File to learn the gene factors on; ``""`` = learn them on the cells themselves.
    source_layer
        Its layer; ``""`` = its main matrix.
    """

    iterations: Count = 200
    source: str = ""
    source_layer: str = ""


PRESETS = {"scrna": Preset()}


def fit(expression: Expression, preset: Preset, k: int | None, settings: Settings) -> Fitted:
    """Factorise, and assign every cell to its largest factor.

    Parameters
    ----------
    expression
        Cells of one file, raw counts or other non-negative values, as they are.
    preset
        How; the gene factors may come from another set.
    k
        Number of factors; without it, Leiden on principal components counts the clusters first.
    settings
        ``seed`` and ``resolution`` count here.

    Returns
    -------
    Fitted
        The embedding are the cell factors, float32 (cells, k); ``extras`` hold ``gene_factors``,
        float32 (k, genes), and ``factor_genes``, the names.

    Raises
    ------
    ConfigError
        If k is impossible.
    DataError
        If the source cannot be read or shares too few genes, or the values' kinds differ.
    """
    choice: dict[str, Any] = {"by": "largest factor"}
    if k is None:
        counted = leiden.fit(expression, leiden.Preset(), None, settings).record["clusters"]
        choice["k by"], k = counted, int(counted["k"])
    require_k(k, len(expression.cells))

    if preset.source:
        source = read(Path(preset.source), ReadAs(preset.source_layer))
        matrix, of_source, genes = _shared(expression, source)
        require_k(k, of_source.shape[0])
        _, gene_factors, sweeps = _factorise(of_source, k, preset, settings.seed)
        cell_factors = _solve(matrix, gene_factors, preset)
    else:
        matrix, genes = expression.matrix, expression.genes
        cell_factors, gene_factors, sweeps = _factorise(matrix, k, preset, settings.seed)
    cell_factors, gene_factors = comparable(cell_factors, gene_factors)
    record = {
        "genes": len(genes),
        "values": expression.kind,
        "transfer": bool(preset.source),
        "sweeps": sweeps,
        "converged": sweeps < preset.iterations,
        "clusters": choice | {"k": k},
    }
    return Fitted(
        cell_factors,
        cell_factors.argmax(axis=1),
        record,
        {"gene_factors": gene_factors, "factor_genes": np.asarray(genes, dtype=str)},
    )


def comparable(cells: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale gene factors to sum 1 and cell factors the other way; their product stays.

    Parameters
    ----------
    cells
        Cell factors, (cells, k).
    genes
        Gene factors, (k, genes); one that is zero throughout stays zero.

    Returns
    -------
    tuple
        Both, float32.
    """
    scale = genes.sum(axis=1)
    scaled = genes / np.where(scale > 0, scale, 1.0)[:, None]
    return (cells * scale).astype(np.float32), scaled.astype(np.float32)


def _shared(target: Expression, source: Expression) -> tuple[csr_matrix, csr_matrix, np.ndarray]:
    """Put both into the columns of the genes they share."""
    if target.kind != source.kind:
        raise DataError(
            f"the source holds {source.kind} and the file {target.kind}; NMF needs both alike"
        )
    least = DataOptions.model_fields["min_shared_genes"].default
    names = {"the file": list(target.genes), "the source": list(source.genes)}
    genes = agree(names, "intersection", None, least)
    return columns(target, genes), columns(source, genes), genes


def _factorise(
    matrix: csr_matrix, k: int, preset: Preset, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    # Random starts, which move with the seed: SVD ones are the same every time and lead to worse
    # factors on PBMC.
    model = NMF(
        k,
        init="random",
        max_iter=preset.iterations,
        random_state=derive_seed(seed, "nmf") % 2**32,
    )
    # The record says whether it converged; the root of an error of −1e-7 is no fault either.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        cells = model.fit_transform(matrix)
    return cells, model.components_, int(model.n_iter_)


def _solve(matrix: csr_matrix, gene_factors: np.ndarray, preset: Preset) -> np.ndarray:
    from sklearn.decomposition import non_negative_factorization
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        cells, _, _ = non_negative_factorization(
            matrix,
            H=gene_factors.astype(matrix.dtype),
            n_components=len(gene_factors),
            init="custom",
            update_H=False,
            max_iter=preset.iterations,
        )
    return np.asarray(cells)
