"""The one pass that decides whether a file can be used, and says why not in plain words."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.contents import layer_name
from fedsc.data.expression import Kind
from fedsc.data.stored import Stored
from fedsc.errors import DataError

KIND_NAMES: Mapping[Kind, str] = {"counts": "raw counts", "lognorm": "log-normalised values"}

LARGEST_LOG = 20.0
"""log2(1e6 + 1) = 19.9 is the largest logarithm of a normalised count in use."""

_LARGEST_COUNT = 2**24  # beyond it float32 skips whole numbers
_BLOCK = 2**20

_COMMON_GENES = frozenset(
    "ACTB ACTG1 B2M CD3D CD74 EEF1A1 FTH1 FTL GAPDH HSP90AB1 LYZ MALAT1 NEAT1 PTPRC TMSB10 TMSB4X "
    "TPT1 TUBA1B UBB UBC VIM".split()
)
_GENE = re.compile(r"(ENS[A-Z]*G\d{11}|MT-(ND|CO|ATP|CYB|RN)|RP[LS]P?\d+[AXY]?$)", re.IGNORECASE)
_BARCODE = re.compile(r"(?<![A-Z])[ACGT]{10,}(?![A-Z])")
_POSITION = re.compile(r"(g|gene_?)?\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Values:
    """What the values of a matrix look like.

    Attributes
    ----------
    not_finite
        How many are NaN or infinite.
    first_not_finite
        Row and column of the first of them.
    negative
        How many are below zero.
    smallest, largest
        Of the finite ones; zero when there are none.
    whole
        Whether all finite ones are whole numbers.
    linear
        Whether every cell's values are multiples of its smallest (normalised, no logarithm).
    """

    not_finite: int
    first_not_finite: tuple[int, int] | None
    negative: int
    smallest: float
    largest: float
    whole: bool
    linear: bool


def look_at(matrix: csr_matrix) -> Values:
    """Summarise the stored values block by block, without a copy of the matrix.

    Parameters
    ----------
    matrix
        cells × genes, any number type.
    """
    not_finite, first, negative, smallest, largest, whole = 0, None, 0, 0.0, 0.0, True
    for start in range(0, matrix.nnz, _BLOCK):
        block = matrix.data[start : start + _BLOCK]
        finite = np.isfinite(block)
        if not finite.all():
            if first is None:
                first = start + int(np.argmin(finite))
            not_finite += int(np.count_nonzero(~finite))
            block = block[finite]
        if block.size:
            smallest, largest = min(smallest, float(block.min())), max(largest, float(block.max()))
            negative += int(np.count_nonzero(block < 0))
            whole = whole and bool((np.rint(block) == block).all())
    return Values(
        not_finite=not_finite,
        first_not_finite=None if first is None else _position(matrix, first),
        negative=negative,
        smallest=smallest,
        largest=largest,
        whole=whole,
        linear=not (not_finite or negative or whole) and _linear(matrix),
    )


def judge(values: Values) -> tuple[Kind | None, list[str]]:
    """Tell counts from log-normalised values from neither.

    Counts are whole. Of other values the logarithm of something normalised stays below
    :data:`LARGEST_LOG`, and a cell's values are no multiples of each other.

    Returns
    -------
    kind, problems
        The kind, or ``None`` and what is wrong, as ends of a sentence that begins with the
        matrix's name.
    """
    problems = []
    if values.not_finite:
        problems.append(f"holds {_count(values.not_finite, 'value')} that are NaN or infinite")
    if values.negative:
        problems.append(f"holds scaled values (negative, down to {values.smallest:.4g})")
    elif not values.largest and not values.not_finite:
        problems.append("holds only zeros")
    elif values.whole and values.largest > _LARGEST_COUNT:
        problems.append(f"holds values up to {values.largest:.4g}, too many for molecule counts")
    elif values.linear:
        problems.append(
            "holds neither raw counts nor log-normalised values: each cell's values are multiples "
            "of its smallest, so they are normalised but not log-transformed (sc.pp.log1p)"
        )
    elif not values.whole and values.largest > LARGEST_LOG:
        problems.append(
            "holds neither raw counts nor log-normalised values: they are not whole numbers, and "
            f"go up to {values.largest:,.6g} where logarithms stay below {LARGEST_LOG:g}"
        )
    if problems:
        return None, problems
    return ("counts" if values.whole else "lognorm"), []


def expression_kind(matrix: csr_matrix) -> Kind:
    """Tell what a matrix holds.

    Parameters
    ----------
    matrix
        cells × genes, any number type; never made dense.

    Raises
    ------
    DataError
        If it holds neither counts nor log-normalised values, with every reason.
    """
    kind, problems = judge(look_at(matrix))
    if kind is None:
        raise DataError("the matrix " + " and ".join(problems))
    return kind


def value_problems(
    matrix: csr_matrix,
    name: str,
    cells: np.ndarray,
    genes: np.ndarray,
    others: Mapping[str, Stored],
) -> tuple[Kind | None, list[str]]:
    """Judge a file's matrix; when it is refused, look whether another in the file would do."""
    values = look_at(matrix)
    kind, problems = judge(values)
    sentences = [f"{name} {problem}" for problem in problems]
    if values.first_not_finite is not None:
        row, column = values.first_not_finite
        sentences[0] += f" (first: cell '{cells[row]}', gene '{genes[column]}')"
    if kind is None:
        better = [
            f"{layer_name(layer)} holds {KIND_NAMES[usable]}: "
            + (f"use --layer {layer}" if layer else "leave --layer out")
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
        problems.append("holds no cells")
    if not len(genes):
        problems.append("holds no genes")
    for names, what, advice in (
        (genes, "gene names", "adata.var_names_make_unique(), or name genes by Ensembl id"),
        (cells, "cell barcodes", "put the sample's name before each barcode"),
    ):
        repeated = pd.unique(pd.Series(names)[pd.Series(names).duplicated()])
        if len(repeated):
            problems.append(
                f"{len(repeated)} {what} occur twice or more ({_some(repeated)}): {advice}"
            )
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


def label_problems(obs: pd.DataFrame, label_key: str) -> list[str]:
    """Find what is wrong with the label column that was asked for, if one was."""
    if not label_key:
        return []
    columns = [str(column) for column in obs.columns]
    if label_key not in columns:
        close = difflib.get_close_matches(label_key, columns, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        known = f"columns are: {', '.join(columns)}" if columns else "no column describes the cells"
        return [f"there is no label column '{label_key}'{hint}; {known}"]
    labels = obs[label_key]
    if len(labels) and labels.isna().all():
        return [f"label column '{label_key}' is empty"]
    if pd.api.types.is_float_dtype(labels.dtype) and (labels.dropna() % 1 != 0).any():
        return [f"label column '{label_key}' holds measurements, not cell types"]
    return []


def notes(matrix: csr_matrix, genes: np.ndarray, obs: pd.DataFrame, label_key: str) -> list[str]:
    """Say what is worth knowing about a usable file though it is no fault."""
    found = []
    empty = int(np.count_nonzero(np.diff(matrix.indptr) == 0))
    if empty:
        found.append(f"{_count(empty, 'cell')} without any count")
    detected = np.zeros(matrix.shape[1], dtype=bool)
    detected[matrix.indices] = True
    if not detected.all():
        found.append(f"{_count(int((~detected).sum()), 'gene')} never detected")
    if all(_POSITION.match(str(gene)) for gene in genes):
        found.append(
            f"genes are named by position ({_some(genes)}), so this file joins only with files "
            "whose genes stand in the same order"
        )
    unlabelled = int(obs[label_key].isna().sum()) if label_key else 0
    if unlabelled:
        found.append(f"{_count(unlabelled, 'cell')} without a label in '{label_key}'")
    if label_key and obs[label_key].nunique() == len(obs) > 1:
        found.append(f"every cell has a label of its own in '{label_key}'")
    return found


def _linear(matrix: csr_matrix) -> bool:
    """Test some cells for values k·s; those of log1p(k·s) bend away from whole ratios."""
    n_cells = matrix.shape[0]
    ratios = []
    for row in np.unique(np.linspace(0, n_cells - 1, 200).astype(int)):
        values = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]].astype(np.float64)
        values = values[values > 0]
        if values.size:
            ratios.append(values / values.min())
    ratio = np.concatenate(ratios)
    ratio = ratio[(ratio > 1.5) & (ratio < 1000)]  # float32 says nothing about larger ones
    if ratio.size < 20:
        return False
    near = np.abs(ratio - np.rint(ratio)) < 1e-5 * ratio
    return bool(near.mean() > 0.99)


def _position(matrix: csr_matrix, index: int) -> tuple[int, int]:
    row = int(np.searchsorted(matrix.indptr, index, side="right")) - 1
    return row, int(matrix.indices[index])


def _named_like_genes(names: np.ndarray) -> bool:
    hits = sum(str(n).upper() in _COMMON_GENES or bool(_GENE.match(str(n))) for n in names)
    return hits >= min(3, max(1, len(names)))


def _named_like_barcodes(names: np.ndarray) -> bool:
    return 2 * sum(bool(_BARCODE.search(str(name))) for name in names) > len(names)


def _some(names: np.ndarray) -> str:
    return ", ".join(str(name) for name in names[:3]) + (", …" if len(names) > 3 else "")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
