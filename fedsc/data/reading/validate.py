"""The one validation pass: names, labels and values of a file, its faults in plain words."""

import difflib
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.expression import LONGEST_NAME, Kind, control_characters
from fedsc.data.genes import is_positional
from fedsc.data.groups import batches_of, doubtful_types, group_names, refuse_many
from fedsc.data.reading.contents import choosing, layer_name
from fedsc.data.reading.kind import KIND_NAMES, Values, count, judge, look_at
from fedsc.data.reading.stored import Stored
from fedsc.data.rows import row_totals
from fedsc.errors import DataError

_ALIKE = 100.0  # sums of log-normalised cells differ 50-fold at most, of corrected counts 400-fold
_WHOLE = 0.99  # share of values; of normalised ones few are whole
_MOST_NAMES = 100_000  # looked at to tell genes from barcodes

_COMMON_GENES = {
    "ACTB",
    "ACTG1",
    "B2M",
    "CD3D",
    "CD74",
    "EEF1A1",
    "FTH1",
    "FTL",
    "GAPDH",
    "HSP90AB1",
    "LYZ",
    "MALAT1",
    "NEAT1",
    "PTPRC",
    "TMSB10",
    "TMSB4X",
    "TPT1",
    "TUBA1B",
    "UBB",
    "UBC",
    "VIM",
}
_GENE = re.compile(r"(ENS[A-Z]*G\d{11}|MT-(ND|CO|ATP|CYB|RN)|RP[LS]P?\d+[AXY]?$)", re.IGNORECASE)
_BARCODE = re.compile(r"(?<![A-Z])[ACGT]{10,}(?![A-Z])")


def value_problems(
    matrix: csr_matrix,
    name: str,
    cells: np.ndarray,
    genes: np.ndarray,
    others: Mapping[str, Stored],
) -> tuple[Kind | None, list[str]]:
    """Judge a file's matrix; when it is refused, look whether another in the file would do."""
    return judged(look_at(matrix), name, cells, genes, others)


def judged(
    values: Values,
    name: str,
    cells: np.ndarray,
    genes: np.ndarray,
    others: Mapping[str, Stored],
) -> tuple[Kind | None, list[str]]:
    """Judge a matrix by what its values look like, as :func:`value_problems`."""
    kind, problems = judge(values)
    sentences = [f"{name} {problem}" for problem in problems]
    firsts = [place for place in (values.first_not_finite, values.first_negative) if place]
    for i, (row, column) in enumerate(firsts):  # these come first, in this order
        sentences[i] += f" (first: cell '{cells[row]}', gene '{genes[column]}')"
    if kind is None:
        better = [
            f"{layer_name(layer)} holds {KIND_NAMES[usable]}: {choosing(layer)}"
            for layer, usable in usable_layers(others).items()
        ]
        sentences[-1] += "".join(f"; {hint}" for hint in better)
    return kind, sentences


def usable_layers(others: Mapping[str, Stored]) -> dict[str, Kind]:
    """Judge a file's other matrices by a sample of each."""
    kinds = {}
    for layer, stored in sorted(others.items()):
        try:
            kind, _ = judge(look_at(stored.sample()))
        except (DataError, OSError, ValueError):  # damaged, which matters only if it is asked for
            continue
        if kind is not None:
            kinds[layer] = kind
    return kinds


def name_problems(genes: np.ndarray, cells: np.ndarray) -> list[str]:
    """Find what is wrong with names and shape: nothing there, repeated, or transposed."""
    problems = []
    if not len(cells):
        problems.append("the file holds no cells")
    if not len(genes):
        problems.append("the file holds no genes")
    number = "number them (option make-unique, or adata.var_names_make_unique())"
    for names, what, advice in (
        (genes, "gene names", f"{number}; better, name genes by Ensembl id"),
        (cells, "cell barcodes", "put the sample's name before each barcode"),
    ):
        repeated = pd.unique(pd.Series(names)[pd.Series(names).duplicated()])
        if len(repeated):
            repeats = f"{_some(repeated)} repeat ({len(repeated)} in all)"
            problems.append(f"{what} must be unique, but {repeats}: {advice}")
    if empty := sum(not str(name) for name in genes):
        problems.append(f"{count(empty, 'gene')} without a name: name them, or leave them out")
    problems += _unfit("gene names", genes)
    signs = []
    if _named_like_genes(cells) and not _named_like_genes(genes):
        signs.append(f"its rows are named like genes ({_some(cells)})")
    if _named_like_barcodes(genes) and not _named_like_barcodes(cells):
        signs.append(f"its columns are named like cells ({_some(genes)})")
    if signs:
        problems.append(
            f"the matrix is transposed, genes × cells: {' and '.join(signs)}; turn it round so "
            "that every row is a cell (adata.T)"
        )
    return problems


def label_problems(obs: pd.DataFrame, label_key: str, *, in_file: bool = True) -> list[str]:
    """Find what is wrong with the label column that was asked for, if one was."""
    if not label_key:
        return []
    columns = [str(column) for column in obs.columns]
    if label_key not in columns:
        close = difflib.get_close_matches(label_key, columns, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        known = f"columns are: {', '.join(columns)}" if columns else "no column describes the cells"
        advice = (
            "; if the file is one lab's, labs.toml beside it can name another column for this lab, "
            "or '' for none (label-key)"
        )
        return [f"there is no label column '{label_key}'{hint}; {known}{advice if in_file else ''}"]
    labels = obs[label_key]
    types = sorted(set(group_names(labels)))
    if types == [""]:
        return [f"label column '{label_key}' is empty"]
    if pd.api.types.is_float_dtype(labels.dtype) and (labels.dropna() % 1 != 0).any():
        return [f"label column '{label_key}' holds measurements, not cell types"]
    return _unfit(f"labels in '{label_key}'", types)


def batch_problems(obs: pd.DataFrame, batch_key: str) -> list[str]:
    """Find what is wrong with the batch column that was asked for, if one was."""
    try:
        refuse_many(batches_of(obs, batch_key)[0])
    except DataError as error:
        return [str(error)]
    return []


def notes(matrix: csr_matrix, genes: np.ndarray, obs: pd.DataFrame, label_key: str) -> list[str]:
    """Say what is worth knowing about a usable file though it is no fault."""
    found = []
    empty = int(np.count_nonzero(np.diff(matrix.indptr) == 0))
    if empty:
        found.append(f"{count(empty, 'cell')} without any count")
    detected = np.zeros(matrix.shape[1], dtype=bool)
    detected[matrix.indices] = True
    if not detected.all():
        found.append(f"{count(int((~detected).sum()), 'gene')} never detected")
    if is_positional(genes):
        found.append(
            f"genes are named by position ({_some(genes)}), so this file joins only with files "
            "whose genes stand in the same order"
        )
    types = group_names(obs[label_key]) if label_key else np.array([])
    if unlabelled := int((types == "").sum()):
        found.append(f"{count(unlabelled, 'cell')} without a label in '{label_key}'")
    if len(set(types) - {""}) == len(obs) > 1:
        found.append(f"every cell has a label of its own in '{label_key}'")
    if doubt := doubtful_types(types):
        found.append(doubt)
    return found


def doubts(matrix: csr_matrix) -> list[str]:
    """Say so where values that pass as log-normalised are more likely something else.

    Logarithms of counts as they are, or counts that are not whole.
    """
    before = csr_matrix((np.expm1(matrix.data), matrix.indices, matrix.indptr), matrix.shape)
    if (np.abs(before.data - np.rint(before.data)) < 1e-4 * before.data).mean() > _WHOLE:
        return [
            "before the logarithm the values were whole numbers, so cells were not scaled to one "
            "library size, and depth will be in the clusters: give the counts (X, a layer or raw), "
            "which are scaled here"
        ]
    sums = row_totals(before)
    low, high = np.quantile(sums[sums > 0], (0.05, 0.95))
    if high < _ALIKE * low:
        return []
    return [
        f"before the logarithm the sums of cells would differ {high / low:,.0f}-fold (5 % to 95 "
        "%), and those of normalised cells are alike: if these are corrected counts, round them, "
        "so that they are taken as counts"
    ]


def _named_like_genes(names: np.ndarray) -> bool:
    hits = sum(
        str(n).upper() in _COMMON_GENES or bool(_GENE.match(str(n))) for n in names[:_MOST_NAMES]
    )
    return hits >= min(3, max(1, len(names)))


def _named_like_barcodes(names: np.ndarray) -> bool:
    looked_at = names[:_MOST_NAMES]
    return 2 * sum(bool(_BARCODE.search(str(name))) for name in looked_at) > len(looked_at)


def _unfit(what: str, names: Iterable[object]) -> list[str]:
    """Find names that a run would refuse."""
    texts = [str(name) for name in names]
    unseen = set(control_characters("".join(texts)))
    broken = [text for text in texts if not unseen.isdisjoint(text)]
    long = [text for text in texts if len(text) > LONGEST_NAME]
    rules = {"hold no control characters": broken, f"have {LONGEST_NAME} letters at most": long}
    return [
        f"{what} must {rule}: {', '.join(repr(name[:80]) for name in wrong[:3])}; rename them"
        for rule, wrong in rules.items()
        if wrong
    ]


def _some(names: np.ndarray) -> str:
    return ", ".join(str(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
