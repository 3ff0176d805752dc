"""What the labs agree on before training: genes, which cells are good enough, statistics."""

from collections.abc import Collection
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.common import log

from fedsc.config import Config
from fedsc.data.genes import case_note
from fedsc.data.preprocess import Preprocessing
from fedsc.data.quality import CellFilter, Thresholds
from fedsc.errors import ConfigError
from fedsc.federated.answers import no_expression
from fedsc.federated.preprocessing import agreed, learn_preprocessing
from fedsc.federated.quality import Limit, learn_kept, learn_thresholds
from fedsc.federated.query import Ask
from fedsc.options import DataOptions, kebab
from protocol import ask as asking
from server_app.federation import Federation

_KINDS = {
    "counts": "raw counts: scaled to one library size, then log1p",
    "lognorm": "log-normalised already: taken as they are",
}


@dataclass(frozen=True)
class Quality:
    """What quality control has decided.

    Attributes
    ----------
    cell_filter
        Which cells are kept, the same rule in all labs.
    rare
        Genes that too few of the kept cells express.
    cells, kept
        Cells of the pool before and after.
    lost
        Cells that fail a limit, by its name; a cell may fail several.
    """

    cell_filter: CellFilter
    rare: tuple[str, ...]
    cells: int
    kept: int
    lost: dict[str, int]

    def told(self, federation: Federation) -> dict[str, Any]:
        """Put it as ``scores.json`` has it, with what each lab loses."""
        limits = self.cell_filter.thresholds
        genes = len(self.cell_filter.vocabulary)
        return {
            "min-genes": limits.min_genes,
            "min-counts": limits.min_counts,
            "max-mito": limits.max_mito,
            "min-cells-per-gene": limits.min_cells_per_gene,
            "cells": self.cells,
            "kept": self.kept,
            "lost": {kebab(name): lost for name, lost in self.lost.items()},
            "genes": genes,
            "genes-kept": genes - len(self.rare),
            "labs": {
                lab: {"cells": about.cells + about.left_out, "left-out": about.left_out}
                for lab, about in federation.labs.items()
            },
        }


def control_quality(federation: Federation, options: DataOptions) -> Quality:
    """Find limits for the pool and what they leave of it, in at most 9 questions.

    Raises
    ------
    ConfigError
        If labs hold log-normalised values, or no mitochondrial gene to judge by.
    DataError
        If the limits leave no cell or no gene.
    LabsLost
        If a lab does not answer.
    """
    labs = federation.labs
    if next(iter(labs.values())).kind != "counts":
        raise ConfigError(
            "min-genes, min-counts, max-mito and min-cells-per-gene need raw counts, and the labs "
            "hold log-normalised values: leave these options out, or bring raw counts"
        )
    vocabulary = agreed({lab: about.genes for lab, about in labs.items()}, options)
    ask = _ask(federation, vocabulary, "quality")
    thresholds = learn_thresholds(
        ask,
        vocabulary,
        min_genes=_limit(options.min_genes, none=Thresholds.min_genes),
        min_counts=_limit(options.min_counts, none=Thresholds.min_counts),
        max_mito=_limit(options.max_mito, none=Thresholds.max_mito),
        min_cells_per_gene=options.min_cells_per_gene,
    )
    kept = learn_kept(ask, vocabulary, thresholds)
    rare = tuple(map(str, vocabulary[~kept.genes]))
    log(
        INFO,
        "quality control (at least %g genes and %g counts, at most %.3g mitochondrial, genes in "
        "%d cells): %d of %d cells and %d of %d genes are kept",
        thresholds.min_genes,
        thresholds.min_counts,
        thresholds.max_mito,
        thresholds.min_cells_per_gene,
        kept.kept,
        kept.cells,
        kept.genes.sum(),
        len(vocabulary),
    )
    names = tuple(map(str, vocabulary))
    return Quality(CellFilter(thresholds, names), rare, kept.cells, kept.kept, kept.lost)


def prepare(federation: Federation, config: Config, rare: Collection[str]) -> Preprocessing:
    """Agree on genes and learn how cells are prepared, from sums.

    Parameters
    ----------
    federation, config
        Of the run.
    rare
        Genes that quality control leaves out.

    Raises
    ------
    LabsLost
        If a lab does not answer.
    """
    options, labs = config.data, federation.labs
    gene_lists = {lab: about.genes for lab, about in labs.items()}
    vocabulary = agreed(gene_lists, options)
    if rare:
        gone = set(rare)  # NumPy would compare every gene with every rare one
        vocabulary = vocabulary[[gene not in gone for gene in vocabulary]]
    if note := case_note(gene_lists):
        log(WARNING, "%s", note)
    kind = next(iter(labs.values())).kind
    log(INFO, "%d genes in common; values are %s", len(vocabulary), _KINDS[kind])
    return learn_preprocessing(_ask(federation, vocabulary), vocabulary, kind, options)


def _ask(federation: Federation, vocabulary: np.ndarray, purpose: str = "") -> Ask:
    kind = next(iter(federation.labs.values())).kind
    return federation.ask(
        asking.EXPRESSION,
        asking.about_expression(vocabulary),
        no_expression(vocabulary, kind),
        purpose,
    )


def _limit(option: str, none: float) -> Limit:
    if option == "mad":
        return "mad"
    return float(option) if option else none
