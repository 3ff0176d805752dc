"""Which of a lab's cells are good enough, by limits that all labs share.

A cell is judged by the genes it expresses, its counts and the share of them that is mitochondrial,
all over the genes the labs agreed on, so that a lab's own panel does not count for its cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedsc.data.aligned import Aligned, align
from fedsc.data.expression import LabCells
from fedsc.errors import DataError
from fedsc.options import kebab


@dataclass(frozen=True)
class Thresholds:
    """What a cell and a gene must have to be kept; the defaults keep all.

    Attributes
    ----------
    min_genes
        Fewest genes above zero in a cell.
    min_counts
        Smallest sum of a cell's counts.
    max_mito
        Largest mitochondrial share of a cell's counts, from 0 to 1.
    min_cells_per_gene
        Fewest cells of the pool, of those kept, in which a gene is above zero.
    """

    min_genes: float = 0.0
    min_counts: float = 0.0
    max_mito: float = 1.0
    min_cells_per_gene: int = 0


@dataclass(frozen=True)
class CellQuality:
    """What cells are judged by.

    Attributes
    ----------
    genes
        Genes above zero, float64 (cells,).
    counts
        Sum of the counts, float64 (cells,).
    mito
        Mitochondrial share of the counts, float64 (cells,); NaN where it is not known: the cell
        has no counts, or its lab measured no mitochondrial gene.
    """

    genes: np.ndarray
    counts: np.ndarray
    mito: np.ndarray


def mitochondrial(genes: Sequence[str] | np.ndarray) -> np.ndarray:
    """Tell genes of the mitochondrion by their symbol, ``MT-…`` in any case; bool (genes,)."""
    return np.array([str(gene).upper().startswith("MT-") for gene in genes], dtype=bool)


def cell_quality(cells: Aligned, mito: np.ndarray) -> CellQuality:
    """Measure a lab's cells, as ``sc.pp.calculate_qc_metrics`` does.

    Parameters
    ----------
    cells
        Raw counts.
    mito
        Which genes of the vocabulary are mitochondrial, bool (V,).

    Raises
    ------
    DataError
        If the cells are log-normalised: their counts are gone.
    """
    if cells.kind != "counts":
        raise DataError.without_data(
            "quality control needs raw counts and the lab holds log-normalised values; "
            "switch it off, or bring raw counts"
        )
    genes: list[np.ndarray] = [np.empty(0)]
    of_mito: list[np.ndarray] = [np.empty(0)]
    for block in cells.blocks():
        stored = np.diff(block.indptr)
        rows, is_mito = np.repeat(np.arange(len(stored)), stored), mito[block.indices]
        genes.append(stored.astype(np.float64))
        of_mito.append(np.bincount(rows[is_mito], block.data[is_mito], minlength=len(stored)))
    counts = cells.sizes
    known = (counts > 0) & (mito & cells.measured).any()
    share = np.divide(
        np.concatenate(of_mito), counts, out=np.full(len(counts), np.nan), where=known
    )
    return CellQuality(np.concatenate(genes), counts, share)


def failing(quality: CellQuality, thresholds: Thresholds) -> dict[str, np.ndarray]:
    """Tell which cells fail which limit, bool (cells,) by the limit's name.

    A cell whose mitochondrial share is not known does not fail that limit.
    """
    return {
        "min_genes": quality.genes < thresholds.min_genes,
        "min_counts": quality.counts < thresholds.min_counts,
        "max_mito": quality.mito > thresholds.max_mito,
    }


def passing(failed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tell which cells fail no limit of :func:`failing`, bool (cells,)."""
    left_out: np.ndarray = np.logical_or.reduce(list(failed.values()))
    return ~left_out


@dataclass(frozen=True)
class CellFilter:
    """What tells a lab which of its cells are kept.

    Attributes
    ----------
    thresholds
        The same for all labs; that on genes is not looked at.
    vocabulary
        The genes the labs agreed on, over which a cell is judged.
    """

    thresholds: Thresholds
    vocabulary: tuple[str, ...]

    def failing(self, cells: LabCells) -> dict[str, np.ndarray]:
        """Tell which cells fail which limit, bool (cells,) by the limit's name.

        Raises
        ------
        DataError
            If the cells are log-normalised.
        """
        aligned = align(cells, self.vocabulary)
        return failing(cell_quality(aligned, mitochondrial(self.vocabulary)), self.thresholds)

    def passing(self, cells: LabCells) -> LabCells:
        """Keep the cells that fail no limit.

        Raises
        ------
        DataError
            If the cells are log-normalised, or none is left.
        """
        kept = self.of_all({"": cells})
        if not kept:
            raise DataError.without_data(
                f"none of the lab's {len(cells.cells)} cells passes quality control"
            )
        return kept[""]

    def of_all(self, parts: Mapping[str, LabCells]) -> dict[str, LabCells]:
        """Keep the cells of each part that fail no limit, and the parts that keep some.

        Raises
        ------
        DataError
            If some cells are log-normalised.
        """
        left = {}
        for name, cells in parts.items():
            kept = passing(self.failing(cells))
            if kept.any():
                left[name] = cells if kept.all() else cells.subset(np.flatnonzero(kept))
        return left


def reasons(failed: dict[str, np.ndarray]) -> np.ndarray:
    """Say by which limits every cell is left out, as options are named; ``""`` = by none.

    Parameters
    ----------
    failed
        Of :func:`failing`.

    Returns
    -------
    np.ndarray
        object (cells,), e.g. ``"min-genes, max-mito"``.
    """
    names = [kebab(name) for name in failed]
    rows = zip(*failed.values(), strict=True)
    told = [", ".join(n for n, fails in zip(names, row, strict=True) if fails) for row in rows]
    return np.array(told, dtype=object)
