"""What a lab's reply has to look like; nothing in it is believed before it has passed here.

A lab may be broken, out of date or hostile. Whatever it sends, the outcome is either data of
exactly the names, types and sizes the server expects, or a :class:`BadReply` in words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client_app import messages
from fedsc import tensors
from fedsc.errors import RunError
from fedsc.federated.averaging import Arrays
from fedsc.federated.query import Sums

_LAB_NAME = re.compile(r"[\w.-]{1,100}")
_LONGEST_NAME = 200
_MOST_NAMES = 1_000_000
_MOST_CELLS = 1_000_000_000
_LONGEST_REASON = 500
_SLACK = 4  # times the size expected: beyond it, a reply is refused without a look inside


class BadReply(RunError):
    """A lab's reply is not what was asked for."""


@dataclass(frozen=True)
class About:
    """What a lab told of itself.

    Attributes
    ----------
    node
        Flower node that hosts it.
    cells
        Number of its cells.
    genes
        Names of the genes it measured.
    kind
        ``"counts"`` or ``"lognorm"``.
    types
        Names of its cell types; empty when it has no labels.
    siblings
        How many labs the simulation has that it is a part of; 0 for a real lab.
    """

    node: int
    cells: int
    genes: np.ndarray
    kind: str
    types: tuple[str, ...]
    siblings: int

    @property
    def simulated(self) -> bool:
        """Whether the server's process may read its cells too."""
        return self.siblings > 0


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _AboutRecord(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Annotated[int, Field(ge=1, le=_MOST_CELLS)]
    kind: Literal["counts", "lognorm"]
    genes: Annotated[bytes, Field(min_length=1, max_length=_MOST_NAMES * 40)]
    types: Annotated[bytes, Field(max_length=_MOST_NAMES * 4)] = b""  # no labels
    siblings: Annotated[int, Field(ge=0, le=1000)]


class _TrainMetrics(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    cells: Annotated[int, Field(ge=1, le=_MOST_CELLS)]
    loss: _Finite
    embedding_std: Annotated[_Finite, Field(alias="embedding-std")]
    seconds: _Finite


_Told = TypeVar("_Told", bound=BaseModel)


def about_of(lab: str, node: int, record: object) -> About:
    """Take what a lab tells of itself out of a reply.

    Raises
    ------
    BadReply
        If it is not a description of a lab.
    """
    if not _LAB_NAME.fullmatch(lab):
        raise BadReply(f"a lab calls itself {lab[:40]!r}: should be letters, digits, '.', '_', '-'")
    told = _checked(_AboutRecord, record, ConfigRecord, f"the description of lab {lab}")
    genes = _names(told.genes, f"the genes of lab {lab}")
    types = tuple(_names(told.types, f"the cell types of lab {lab}"))
    return About(node, told.cells, genes, told.kind, types, told.siblings)


def sums_of(record: object, expected: Sums, n_cells: int) -> Sums:
    """Take the answer to a question out of a reply.

    Parameters
    ----------
    record
        Of the lab.
    expected
        What a lab without cells answers: names, shapes and types.
    n_cells
        Cells of the lab; no count is above it.

    Raises
    ------
    BadReply
        If it is not such an answer, or holds what no cells can add up to.
    """
    sums = _arrays(record, expected)
    for name, array in sums.items():
        if (
            array.dtype.kind == "i"
            and array.size
            and not 0 <= array.min() <= array.max() <= n_cells
        ):
            raise BadReply(f"{name} counts {array.min()} to {array.max()} of {n_cells} cells")
    return sums


def update_of(
    content: RecordDict, lab: str, expected: Mapping[str, np.ndarray]
) -> tuple[Arrays, dict[str, Any]]:
    """Take a lab's update and its metrics out of a reply.

    Parameters
    ----------
    content
        Of the reply.
    lab
        Name of the lab.
    expected
        The global weights: the same names, shapes and types are wanted.

    Raises
    ------
    BadReply
        If tensors are missing, unknown, of another shape or type, or not finite, or metrics are.
    """
    update = _arrays(content.get(messages.key("update", lab)), expected)
    record = content.get(messages.key("metrics", lab))
    metrics = _checked(_TrainMetrics, record, MetricRecord, "the metrics")
    return update, metrics.model_dump()


def reason_of(record: object) -> str:
    """Put what a node gives as a reason into one short line, whatever it is."""
    reason = record.get("reason") if isinstance(record, ConfigRecord) else record
    if not isinstance(reason, str):
        return "failed and gave no reason in words"
    visible = "".join(char if char.isprintable() else " " for char in reason[: 8 * _LONGEST_REASON])
    words = " ".join(visible.split())
    return words[:_LONGEST_REASON] or "failed without a reason"


def last_line(text: str) -> str:
    """Cut a traceback to the sentence at its end."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return reason_of(lines[-1]) if lines else "failed without a reason"


def _arrays(record: object, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decode arrays that are exactly as expected; what is far too large is not decoded at all."""
    if not isinstance(record, ArrayRecord) or set(record) != {messages.TENSORS}:
        raise BadReply("no arrays where arrays should be")
    data, most = record[messages.TENSORS].data, _SLACK * len(tensors.pack(expected))
    if len(data) > most:
        raise BadReply(f"its arrays take {len(data)} bytes, should be at most {most}")
    try:
        arrays = tensors.unpack(data)
    except ValueError as error:
        raise BadReply(f"its arrays cannot be decoded: {reason_of(str(error))}") from error
    if arrays.keys() != expected.keys():
        odd = sorted(name[:60] for name in arrays.keys() ^ expected.keys())[:3]
        raise BadReply(f"arrays {odd} do not fit")
    for name, like in expected.items():
        _check_array(name, arrays[name], like)
    return {name: arrays[name] for name in expected}


def _check_array(name: str, array: np.ndarray, like: np.ndarray) -> None:
    if array.shape != like.shape or array.dtype != like.dtype:
        raise BadReply(
            f"{name} is {array.dtype}{str(array.shape)[:60]}, should be {like.dtype}{like.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadReply(f"{name} holds NaN or infinity")


def _checked(model: type[_Told], record: object, kind: type, what: str) -> _Told:
    if not isinstance(record, kind):
        raise BadReply(f"{what} is missing")
    try:
        return model.model_validate(dict(record))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:3]
        )
        raise BadReply(f"{what} is wrong: {wrong}") from None


def _names(packed: bytes, what: str) -> np.ndarray:
    try:
        names = messages.unpack_names(packed)
    except UnicodeDecodeError:
        raise BadReply(f"{what} are no text") from None
    if len(names) > _MOST_NAMES or any(not 0 < len(name) <= _LONGEST_NAME for name in names):
        raise BadReply(f"{what}: too many names, an empty one or one above {_LONGEST_NAME} letters")
    if len(set(names)) != len(names):
        raise BadReply(f"{what} repeat a name")
    return names
