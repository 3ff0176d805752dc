"""Read a file of single-cell expression, whatever its format, or say everything wrong with it.

Formats: ``.h5ad``, 10x ``.h5`` and ``matrix.mtx[.gz]`` folders, ``.loom``, ``.csv``/``.tsv[.gz]``,
and HDF5 with dense ``X`` and labels ``Y`` (scDeepCluster). Files are only ever opened for reading.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import pandas as pd
from scipy.sparse import csr_matrix

from fedsc.data.expression import Expression, Kind, LabCells
from fedsc.data.reading.backed import Backed
from fedsc.data.reading.contents import Contents, layer_name, repaired
from fedsc.data.reading.hdf5 import read_hdf5
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.data.reading.kind import KIND_NAMES, judge, look_at
from fedsc.data.reading.large import is_large, keep
from fedsc.data.reading.memory import memory_problem
from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_foreign, refuse_large
from fedsc.data.reading.stored import Compressed
from fedsc.data.reading.text import holds_matrix, read_mtx, read_table
from fedsc.data.reading.validate import (
    batch_problems,
    doubts,
    label_problems,
    name_problems,
    notes,
    usable_layers,
    value_problems,
)
from fedsc.errors import DataError, FedscError

if TYPE_CHECKING:
    import anndata

_HDF5 = (".h5ad", ".h5", ".loom")
_TABLES = (".csv", ".tsv", ".txt")
_ELSEWHERE = {
    ".rds": "an R object: write it as .h5ad from R (zellkonverter::writeH5AD)",
    ".rdata": "an R workspace: write its matrix as .h5ad from R (zellkonverter::writeH5AD)",
    ".xlsx": "an Excel file: save it as .csv",
    ".zip": "an archive: unpack it first",
    ".tar": "an archive: unpack it first",
    ".tgz": "an archive: unpack it first",
    ".gz": "compressed: unpack it first (gunzip)",
}


@dataclass(frozen=True)
class Examination:
    """All there is to say about a file.

    Attributes
    ----------
    problems
        Sentences on why the file cannot be used; empty when it can.
    notes
        Sentences on what is worth knowing but no fault.
    shape
        Cells and genes; ``None`` when the file could not be read that far.
    kind
        ``None`` when it is neither, or was not reached.
    obs
        Annotation of the cells; ``None`` when not reached.
    expression
        ``None`` when there are problems.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    kind: Kind | None = None
    obs: pd.DataFrame | None = None
    expression: Expression | None = None


def is_cells(path: Path) -> bool:
    """Say whether a name promises a set of cells: an HDF5 file, or a folder with a 10x matrix.

    A table may hold anything, so it has to be named by a person.
    """
    return path.suffix in _HDF5 or (path.is_dir() and holds_matrix(path))


def may_be_cells(path: Path) -> bool:
    """Say whether a file could hold cells for all its name says: a table, a matrix, an archive."""
    return path.suffix.lower() in (".csv", ".tsv", ".mtx", *_ELSEWHERE) and not path.is_dir()


def read(path: Path | str, how: ReadAs = AS_IT_IS) -> Expression:
    """Read and validate a file.

    Parameters
    ----------
    path
        File, or a 10x matrix folder.
    how
        Which of its values, and under which names.

    Returns
    -------
    Expression
        All cells and genes of the file in its order, values cast to float32, else untouched.

    Raises
    ------
    DataError
        With one line per problem, all at once.
    """
    return _usable(path, examine(path, how))


def _usable(path: Path | str, examination: Examination) -> Expression:
    if examination.expression is None:
        raise DataError("\n".join(f"{path}: {problem}" for problem in examination.problems))
    return examination.expression


def read_or_keep(
    path: Path, folder: Callable[[], Path], how: ReadAs = AS_IT_IS, *, files: int = 1
) -> LabCells:
    """Read a file as :func:`read` does; the values of a large one stay on disk.

    Parameters
    ----------
    path, how
        As for :func:`read`.
    folder
        Gives the folder for the copy of the values of a large file
        (:mod:`fedsc.data.reading.large`).
    files
        How many files the process reads: of many, smaller ones stay on disk too.

    Raises
    ------
    DataError
        As :func:`read`.
    RunError
        If the copy cannot be written.
    """
    try:
        with _contents(path, how) as contents:
            if is_large(contents, files):
                with explained():
                    return keep(path, contents, how.layer, folder())
            return _usable(path, _examine(contents))
    except DataError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise DataError(f"{path}: {error}") from error


def read_or_open(path: Path, how: ReadAs = AS_IT_IS) -> Expression | Backed:
    """Read a file, or leave it on disk where memory does not hold it and it lies cell by cell.

    Parameters
    ----------
    path, how
        As for :func:`read`. Only an ``.h5ad`` whose matrix is CSR lies cell by cell.

    Raises
    ------
    DataError
        As :func:`read`. Of a file that stays on disk, values are looked at when they are read.
    """
    with _contents(path.expanduser(), how) as contents:
        matrix = contents.matrix
        if (
            path.suffix == ".h5ad"
            and isinstance(matrix, Compressed)
            and not matrix.by_gene
            and memory_problem(matrix.needed_bytes())
        ):
            problems = name_problems(contents.genes, contents.cells)
            with explained():
                kind, found = judge(look_at(matrix.sample()))
            if problems or kind is None:
                problems += [f"{contents.name} {problem}" for problem in found]
                raise DataError("\n".join(f"{path}: {problem}" for problem in problems))
            size = len(matrix.data)
            return Backed(path, how.layer, contents.genes, matrix.shape[0], size, kind)
    return read(path, how)


def examine(path: Path | str, how: ReadAs = AS_IT_IS, batch_key: str = "") -> Examination:
    """Read a file as :func:`read` does, and collect what there is to say instead of raising.

    ``batch_key`` is the column of ``obs`` with batches, ``""`` = none.
    """
    try:
        with _contents(Path(path).expanduser(), how) as contents:
            return _examine(contents, batch_key)
    except DataError as error:
        return Examination(problems=(str(error),))


def _examine(contents: Contents, batch_key: str = "") -> Examination:
    genes, cells, obs = contents.genes, contents.cells, contents.obs
    label_key = contents.label_key
    problems = name_problems(genes, cells)
    problems += label_problems(obs, label_key) + batch_problems(obs, batch_key)
    shape, kind, matrix = (len(cells), len(genes)), None, None
    if min(shape) > 0:
        try:
            matrix = _load(contents)
        except DataError as error:  # too large or damaged; the names' faults are told with it
            problems.append(str(error))
        else:
            kind, found = value_problems(matrix, contents.name, cells, genes, contents.others)
            problems += found
    if problems or matrix is None or kind is None:
        return Examination(tuple(problems), contents.notes, shape, kind, obs)
    remarks = [*contents.notes, *notes(matrix, genes, obs, label_key)]
    if kind == "lognorm":
        remarks += doubts(matrix)
        remarks += [
            f"{layer_name(layer)} holds {KIND_NAMES[other]}"
            for layer, other in usable_layers(contents.others).items()
            if other == "counts"
        ]
    expression = Expression(matrix=matrix, **contents.annotated(kind))
    return Examination((), tuple(remarks), shape, kind, obs, expression)


def _load(contents: Contents) -> csr_matrix:
    with explained():
        matrix = contents.matrix
        if not isinstance(matrix, csr_matrix):
            if problem := memory_problem(matrix.needed_bytes()):
                raise DataError(problem)
            matrix = matrix.load()
        return matrix if contents.columns is None else csr_matrix(matrix[:, contents.columns])


@contextmanager
def _contents(path: Path, how: ReadAs) -> Iterator[Contents]:
    """Open a file with the reader for it; HDF5 files stay open inside the context."""
    layer, symbols = how.layer, how.symbols
    with ExitStack() as stack:
        with explained():
            if not path.exists():
                raise DataError("there is no such file or folder")
            if path.is_file() and not path.stat().st_size:
                raise DataError("the file is empty (0 bytes): copy or download it again")
            unpacked = path.name.lower().removesuffix(".gz")
            is_text = path.is_dir() or unpacked.endswith((".mtx", *_TABLES))
            if is_text and layer:
                raise DataError(
                    f"text formats have no layers, so there is no '{layer}': leave layer out"
                )
            if is_text and symbols:
                raise DataError(f"text formats have no var: leave symbols = '{symbols}' out")
            if not is_text:
                contents = read_hdf5(stack.enter_context(_open_hdf5(path)), layer, symbols)
            elif unpacked.endswith(_TABLES):
                contents = read_table(path, how.label_key)
            else:
                contents = read_mtx(path)
            _refuse_misfit(contents)
        yield repaired(contents, how)


def _open_hdf5(path: Path) -> h5py.File:
    if not h5py.is_hdf5(path):
        advice = _ELSEWHERE.get(path.suffix.lower())
        if advice:
            raise DataError(f"the file is {advice}")
        raise DataError(
            "the file is not HDF5, as .h5ad, .h5 and .loom files are: it was damaged on its way "
            "(copy or download it again) or is something else"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "truncated" not in str(error):
            raise
        raise DataError(
            "the file is truncated, its end is missing: copy or download it again"
        ) from error
    try:
        refuse_foreign(file)
    except BaseException:
        file.close()
        raise
    return file


def _refuse_misfit(contents: Contents) -> None:
    """Refuse a matrix with other dimensions than its names."""
    columns = contents.genes if contents.columns is None else contents.columns
    named = (len(contents.cells), len(columns))
    if tuple(contents.matrix.shape) != named:
        rows, genes = contents.matrix.shape
        raise DataError(
            f"the file contradicts itself: {contents.name} is {rows} cells × {genes} genes but "
            f"{named[0]} cells and {named[1]} genes have names"
        )


def read_anndata(path: Path) -> "anndata.AnnData":
    """Read an ``.h5ad`` file whole, as anndata does, once it is known to be safe and to fit.

    Raises
    ------
    DataError
        If it is damaged, would do more than hold values, or does not fit in memory.
    """
    import anndata

    with explained():
        with open_hdf5(path) as content:
            refuse_large(content)
        return anndata.read_h5ad(path)


@contextmanager
def explained() -> Iterator[None]:
    """Turn whatever a library says about a broken file into a sentence.

    Damage surfaces in h5py, anndata, pandas, SciPy or zlib as any kind of exception, so all are
    caught here; only reading happens inside, and the original stays attached.
    """
    try:
        yield
    except FedscError:
        raise
    except MemoryError as error:
        raise DataError(
            "the file does not fit in memory: use a machine with more, or split it into several "
            "with fewer cells"
        ) from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            "the file cannot be read; it is damaged or not in the form its name promises "
            f"({type(error).__name__}: {first})"
        ) from error
