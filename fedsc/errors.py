"""Errors meant for a person: each message names the thing, its value and what to do."""

import traceback
from typing import Self


class FedscError(Exception):
    """Base of every error FedSC raises on purpose; the CLI prints it without a traceback.

    Parameters
    ----------
    text
        For those who may see the data: it may quote names of cells, columns, values and paths.
    outside
        What a lab tells the server instead, which quotes none of these. Without it the server
        learns no more than the kind of the error, so that a new error tells nothing by mistake.
    """

    def __init__(self, text: str, outside: str = "") -> None:
        super().__init__(text)
        self.outside = outside

    @classmethod
    def without_data(cls, text: str) -> Self:
        """Make an error whose whole text may leave a lab."""
        return cls(text, text)


def with_place(error: BaseException) -> str:
    """Name a fault in a program by its kind, its text, and the file and line where it arose."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, SyntaxError):  # it arose where it was read; its text repeats the place
        text, file, line = error.msg, error.filename, error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        file, line = (frames[-1].filename, frames[-1].lineno) if frames else (None, None)
    return f"{kind}: {text}" + (f" ({file}, line {line})" if file else "")


class ConfigError(FedscError):
    """An option has a wrong type, an unknown name or a value out of range."""


class DataError(FedscError):
    """An input file cannot be used as single-cell expression data."""


class RunError(FedscError):
    """A federated run cannot go on (too few labs, no valid update, wrong checkpoint)."""
