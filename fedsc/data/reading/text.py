"""Readers of the text formats: 10x matrix folders (``.mtx``) and tables (``.csv``, ``.tsv``)."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from fedsc.data.reading.contents import Contents, name_genes, only_genes
from fedsc.data.reading.memory import available_memory, memory_problem
from fedsc.data.reading.safe_text import MOST_NAME, open_bounded
from fedsc.data.reading.stored import SLAB
from fedsc.errors import DataError

_MATRIX = re.compile(r"matrix\.mtx(\.gz)?$")
_MOST_COLUMNS = 1_000_000
_MOST_HEADER = 2**20
_MOST_TRIPLET = 128  # bytes of a line "gene cell value"
_MEMORY_PER_BYTE = 16  # what a byte of names takes as a Python object
_MTX_BYTES_PER_VALUE = 28  # triplets as they are parsed (20) and the compressed matrix (8)


def read_mtx(path: Path) -> Contents:
    """Read a matrix with its features and barcodes, as Cell Ranger and STARsolo write them.

    Parameters
    ----------
    path
        The folder, or the ``.mtx`` file where a folder holds several (then the files beside it
        must share its prefix, as ``GSM123_matrix.mtx.gz`` and ``GSM123_barcodes.tsv.gz``).

    Raises
    ------
    DataError
        If a file is missing, or the three do not fit each other or memory.
    """
    from scipy.io import mminfo, mmread

    matrix_file = _matrix_file(path)
    features_file = _companion(matrix_file, "features", "genes")
    barcodes_file = _companion(matrix_file, "barcodes")
    with open_bounded(matrix_file, _MOST_HEADER) as file:
        rows, columns, stored, *_ = mminfo(file)
    features, cells = _lines(features_file, rows), _lines(barcodes_file, columns)[0].to_numpy()
    if (rows, columns) != (len(features), len(cells)):
        turned = (rows, columns) == (len(cells), len(features))
        raise DataError(
            f"{matrix_file.name} is {rows} × {columns}, but {features_file.name} names "
            f"{len(features)} features and {barcodes_file.name} {len(cells)} cells"
            + (": the matrix is transposed, 10x writes features × cells" if turned else "")
        )
    if problem := memory_problem(stored * _MTX_BYTES_PER_VALUE):
        raise DataError(problem)
    with open_bounded(matrix_file, _MOST_HEADER + stored * _MOST_TRIPLET) as file:
        triplets = mmread(file)
    if isinstance(triplets, np.ndarray):  # Matrix Market's dense variety
        matrix = csr_matrix(triplets.T.astype(np.float32))
    else:
        matrix = csr_matrix(triplets.T, dtype=np.float32)
    matrix.eliminate_zeros()
    kinds = features[2].to_numpy() if len(features.columns) > 2 else None
    chosen, left_out = only_genes(kinds)
    if chosen is not None:
        features = features[chosen]
    ids = features[0].to_numpy()
    genes, renamed = name_genes(features[min(1, len(features.columns) - 1)].to_numpy(), ids)
    return Contents(
        matrix=matrix,
        genes=genes,
        cells=cells,
        obs=pd.DataFrame(index=cells),
        columns=chosen,
        notes=left_out + renamed,
    )


def holds_matrix(folder: Path) -> bool:
    """Tell a folder as Cell Ranger writes it from others."""
    return any(_MATRIX.search(file.name) for file in folder.glob("*.mtx*"))


def _matrix_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(file for file in path.iterdir() if _MATRIX.search(file.name))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:4])
        raise DataError(f"the folder holds several matrices ({names}): name the one to read")
    names = ", ".join(sorted(file.name for file in path.iterdir())[:4]) or "nothing"
    raise DataError(
        f"the folder holds no .h5ad, .h5 or .loom file and no matrix.mtx[.gz] but {names}: name a "
        "file, a folder with one such file per lab, or one as Cell Ranger writes it"
    )


def _companion(matrix_file: Path, *stems: str) -> Path:
    prefix = _MATRIX.sub("", matrix_file.name) if _MATRIX.search(matrix_file.name) else ""
    for stem in stems:
        for ending in (".tsv", ".tsv.gz"):
            file = matrix_file.with_name(f"{prefix}{stem}{ending}")
            if file.exists():
                return file
    wanted = " or ".join(f"{prefix}{stem}.tsv[.gz]" for stem in stems)
    raise DataError(f"{matrix_file.name} has no {wanted} beside it")


def _lines(file: Path, promised: int) -> pd.DataFrame:
    """Read a table of text without header, as long as the matrix says; an empty one has no rows."""
    most = _MOST_HEADER + promised * MOST_NAME
    available = available_memory()
    if available is not None:
        most = min(most, available // _MEMORY_PER_BYTE)
    try:
        with open_bounded(file, most) as stream:
            return pd.read_csv(
                stream,
                sep="\t",
                header=None,
                dtype=str,
                keep_default_na=False,
                quoting=csv.QUOTE_NONE,
            ).astype(object)
    except pd.errors.EmptyDataError:
        return pd.DataFrame({0: []}, dtype=object)


def read_table(path: Path, label_key: str) -> Contents:
    """Read cells × genes from a delimited file: a header of genes, then a cell a line.

    Parameters
    ----------
    path
        Comma, tab or semicolon separated, perhaps gzipped. The header may leave out the corner,
        as R does.
    label_key
        Column that holds cell types instead of a gene; ``""`` when there is none.

    Raises
    ------
    DataError
        If it is no such table, or columns other than ``label_key`` hold text.
    """
    with io.TextIOWrapper(open_bounded(path), encoding="utf-8-sig") as file:
        first, second = file.readline(), file.readline()
    separator = max("\t,;", key=first.count)
    if first.count(separator) > _MOST_COLUMNS:
        raise DataError(f"its first line names more than {_MOST_COLUMNS:,} genes: it is no table")
    header, sample = (next(csv.reader([line], delimiter=separator), []) for line in (first, second))
    if len(header) == len(sample) - 1:
        header = ["", *header]
    if len(header) < 2:
        raise DataError("the file is no table: its first line holds no comma, tab or semicolon")
    if second.strip() and len(header) != len(sample):
        raise DataError(f"line 1 has {len(header)} columns, line 2 has {len(sample)}")
    if all(re.fullmatch(r"[\d.eE+-]+", name) for name in header[1:]) and "." in "".join(header[1:]):
        raise DataError("its first line holds numbers: it has to name the genes")
    genes = np.array(header, dtype=object)
    is_label = (genes == label_key) & (label_key != "")
    is_label[0] = False
    pieces, cells, labels, needed = [], [], [], 0
    with _chunks(path, separator, len(header), np.flatnonzero(is_label)) as chunks:
        for chunk in chunks:
            values = chunk.loc[:, ~is_label].iloc[:, 1:]
            _refuse_text_columns(values, genes)
            pieces.append(csr_matrix(values.to_numpy(dtype=np.float32)))
            cells.append(chunk[0])
            labels.append(chunk.loc[:, is_label])
            needed += _table_bytes(pieces[-1], cells[-1])
            if problem := memory_problem(needed):  # the pieces and the whole exist together
                raise DataError(f"it goes on beyond line {sum(map(len, cells)):,}: {problem}")
    n_genes = int((~is_label).sum()) - 1
    names = np.concatenate(cells).astype(object) if cells else np.array([], dtype=object)
    obs = pd.DataFrame(index=names)
    if is_label.any() and labels:
        obs[label_key] = pd.concat(labels).iloc[:, 0].to_numpy()
    return Contents(
        matrix=csr_matrix(vstack(pieces)) if pieces else csr_matrix((0, n_genes), dtype=np.float32),
        genes=genes[~is_label][1:],
        cells=names,
        obs=obs,
        label_key=label_key if is_label.any() else "",
        name="the table",
    )


def _table_bytes(values: csr_matrix, cells: pd.Series) -> int:
    """Give the memory that joining some rows to the others takes."""
    return int(values.data.nbytes + values.indices.nbytes + values.indptr.nbytes) + 8 * len(cells)


@contextmanager
def _chunks(
    path: Path, separator: str, width: int, text: np.ndarray
) -> Iterator[Iterable[pd.DataFrame]]:
    """Read the lines after the header, as many at a time as may be dense in memory."""
    file = open_bounded(path)
    try:
        reader = pd.read_csv(
            file,
            sep=separator,
            header=None,
            names=range(width),
            skiprows=1,
            index_col=False,
            dtype=dict.fromkeys(text.tolist(), str),
            converters={0: str},  # a cell may be named NA
            chunksize=max(1, SLAB // width),
            low_memory=False,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError:
        file.close()
        yield []
        return
    with file, reader:
        yield reader


def _refuse_text_columns(values: pd.DataFrame, genes: np.ndarray) -> None:
    texts = values.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in values.dtypes]]
    if values.empty or not len(texts):
        return
    column = values[texts[0]]
    unreadable = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    example = next(iter(unreadable), column.iloc[0])
    name = genes[texts[0]]
    more = f" (and {len(texts) - 1} more columns)" if len(texts) > 1 else ""
    raise DataError(
        f"column '{name}'{more} holds text ('{example}'): beside the cells' names only numbers may "
        f"stand; if it holds cell types, use --label-key {name}, else remove it"
    )
