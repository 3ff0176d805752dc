"""What a run keeps as tensors of its embedding, read from a folder that may come from anybody."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from fedsc import tensors
from fedsc.data.reading.memory import refuse_large
from fedsc.errors import DataError


class _Kept(Protocol):
    @property
    def dimensions(self) -> int: ...


_K = TypeVar("_K", bound=_Kept)


def read_kept(
    path: Path, parse: Callable[[dict[str, np.ndarray], dict[str, Any]], _K], dimensions: int
) -> _K | None:
    """Read a file of a run folder; ``None`` where the run made none.

    Parameters
    ----------
    path
        Of a file of tensors.
    parse
        Checks the arrays, and what was kept with them, and makes something of them; it raises
        :class:`DataError` where it cannot.
    dimensions
        d of the model's embedding, for which it has to be.

    Raises
    ------
    DataError
        If the file is damaged, too large, or of another model.
    """
    if not path.exists():
        return None
    try:
        refuse_large(path)
        kept = parse(*tensors.read(path))
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if kept.dimensions != dimensions:
        raise DataError(f"{path}: of {kept.dimensions} dimensions, the model has {dimensions}")
    return kept
