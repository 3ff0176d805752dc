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


class Embedder(_Kept, Protocol):
    """What a run embeds cells with: a :class:`fedsc.model.Model`."""

    @property
    def digest(self) -> str: ...  # noqa: D102


_K = TypeVar("_K", bound=_Kept)


def read_kept(
    path: Path, parse: Callable[[dict[str, np.ndarray], dict[str, Any]], _K], model: Embedder
) -> _K | None:
    """Read a file of a run folder; ``None`` where the run made none.

    Parameters
    ----------
    path
        Of a file of tensors.
    parse
        Checks the arrays, and what was kept with them, and makes something of them; it raises
        :class:`DataError` where it cannot.
    model
        Of the same folder; the digest kept with the arrays (``model``) has to be its own.

    Raises
    ------
    DataError
        If the file is damaged, too large, or of another model.
    """
    if not path.exists():
        return None
    try:
        refuse_large(path)
        arrays, about = tensors.read(path)
        kept = parse(arrays, about)
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if kept.dimensions != model.dimensions:
        raise DataError(
            f"{path}: of {kept.dimensions} dimensions, the model has {model.dimensions}"
        )
    if about.get("model") != model.digest:
        raise DataError(
            f"{path}: made with another model than the one beside it, or by an earlier version "
            "of FedSC; resume the run, which makes it anew, or start a new one"
        )
    return kept
