"""Prepared cells of a real lab on its own disk, so that a message need not read its file again.

One file, replaced whole and mapped into memory. It belongs to exactly one preparation of exactly
one file, and what is read is checked before it is used: a damaged cache is made anew, never trained
on.
"""

import dataclasses
import hashlib
import json
from logging import WARNING
from pathlib import Path

import numpy as np
from flwr.common import log
from scipy.sparse import csr_matrix

from fedsc import tensors
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.data.quality import CellFilter
from fedsc.errors import RunError
from fedsc.files import make_folder, replace

_FORMAT = 1
_STANDARDISED_AT_ONCE = 2**26  # bytes; of more, each batch is standardised by itself


def preparation_key(
    preprocessing: Preprocessing, scale: str, cell_filter: CellFilter | None = None
) -> str:
    """Name a preparation by all it depends on but the lab's file."""
    kept = "all"
    if cell_filter is not None:
        content = json.dumps(dataclasses.asdict(cell_filter)).encode()
        kept = hashlib.sha256(content).hexdigest()
    return f"{_FORMAT} {scale} {kept} {preprocessing.digest} "


def save_cells(path: Path, key: str, cells: CellMatrix) -> None:
    """Keep prepared cells under a key; a disk that is full costs time, not the round."""
    values = cells.values
    parts = {
        "data": values.data,
        "indices": values.indices,
        "indptr": values.indptr,
        "mean": cells.mean,
        "std": cells.std,
        "measured": cells.measured,
    }
    about = {"key": key, "max_value": cells.max_value}
    try:
        make_folder(path.parent)
        replace(path, *tensors.pack_in_parts(parts, about))
    except RunError as error:
        log(WARNING, "prepared cells are not kept, so each message prepares them: %s", error)


def load_cells(path: Path, key: str) -> CellMatrix | None:
    """Map the cells kept under a key; ``None`` where there are none, or others, or damaged ones.

    Parameters
    ----------
    path
        File that :func:`save_cells` wrote.
    key
        What the cells must have been kept under.
    """
    try:
        parts, about = tensors.mapped(path)
        if about["key"] != key:
            return None
        cells = _matrix(parts, float(about["max_value"]))
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, TypeError) as error:
        log(WARNING, "%s is damaged and is made anew (%s)", path.name, error)
        return None
    return cells


def _matrix(parts: dict[str, np.ndarray], max_value: float) -> CellMatrix:
    """Put the parts together.

    Raises
    ------
    ValueError, KeyError
        If they are not the parts of one matrix.
    """
    data, indices, indptr = (parts[name] for name in ("data", "indices", "indptr"))
    mean, std, measured = (parts[name] for name in ("mean", "std", "measured"))
    kinds = [array.dtype.kind for array in (data, mean, std, indices, indptr, measured)]
    shapes = {array.shape for array in (mean, std, measured)}
    if kinds != ["f", "f", "f", "i", "i", "b"] or len(shapes) != 1 or mean.ndim != 1:
        raise ValueError("parts of the wrong kind")
    values = csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, len(mean)))
    values.check_format(full_check=True)
    if not (np.isfinite(data).all() and np.isfinite(mean).all() and (std > 0).all()):
        raise ValueError("values that are not finite")
    on_disk = values.data.nbytes > _STANDARDISED_AT_ONCE
    return CellMatrix(values, mean, std, max_value, measured, on_disk)
