"""Read text of a stranger, perhaps gzipped: no more is decompressed than it can rightly hold."""

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING

from fedsc.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_LINE = 2**26
"""Bytes a line may take: 64 MiB, a million genes in a table."""

MOST_NAME = 2**12
"""Bytes a line of names may take on average: 4 KiB."""

_BUFFER = 2**18


class _Bounded(io.RawIOBase):
    """A stream that counts what goes through it; gzip does not say beforehand how much it holds."""

    def __init__(self, stream: io.BufferedIOBase, name: str, most: int | None) -> None:
        self._stream, self._name, self._most = stream, name, most
        self._total = self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        space = memoryview(buffer)
        block = self._stream.read(len(space))
        end = block.rfind(b"\n")
        self._total += len(block)
        # Of a block with an end of line, only what comes after it is a line's beginning.
        self._line = len(block) - end - 1 if end >= 0 else self._line + len(block)
        if self._most is not None and self._total > self._most:
            raise DataError(
                f"{self._name} holds more than {self._most / 2**20:,.0f} MiB, which is more than "
                "what it promises can take: it is damaged, or made to fill the memory"
            )
        if self._line > MOST_LINE:
            raise DataError(
                f"{self._name} has a line of more than {MOST_LINE / 2**20:,.0f} MiB: it is no table"
            )
        space[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bounded(path: Path, most: int | None = None) -> io.BufferedReader:
    """Open a file of text for reading its bytes, decompressed where its name ends in ``.gz``.

    Parameters
    ----------
    path
        File.
    most
        Bytes that it may hold; ``None`` = as many as it likes, in lines of bounded length.

    Returns
    -------
    io.BufferedReader
        Its reading ends in a :class:`fedsc.errors.DataError` where there is more.
    """
    stream = gzip.GzipFile(path) if path.name.endswith(".gz") else path.open("rb")
    return io.BufferedReader(_Bounded(stream, path.name, most), _BUFFER)
