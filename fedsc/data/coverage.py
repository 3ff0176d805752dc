"""How much of what a model looks at a file has measured."""

from dataclasses import dataclass

import numpy as np

from fedsc.data.reading.kind import count
from fedsc.errors import DataError

WARN_BELOW = 0.8
REFUSE_BELOW = 0.2


@dataclass(frozen=True)
class Coverage:
    """Which share of a model's input a file fills.

    Attributes
    ----------
    measured
        How many of the model's genes the file has.
    genes
        How many genes the model looks at.
    weight
        Share of the squared norm of the encoder's first layer that belongs to measured genes: how
        much of what the model looks at is there. From 0 to 1.
    """

    measured: int
    genes: int
    weight: float

    @property
    def share(self) -> float:
        """Share of the genes that are measured, from 0 to 1."""
        return self.measured / self.genes

    def __str__(self) -> str:
        return (
            f"{self.measured} of the model's {self.genes} genes ({self.share:.0%}), with "
            f"{self.weight:.0%} of its first layer's weight"
        )


def coverage(measured: np.ndarray, first_layer: np.ndarray) -> Coverage:
    """Measure coverage.

    Parameters
    ----------
    measured
        Whether the file has each of the model's genes, bool (G,).
    first_layer
        Weights of the encoder's first layer, (outputs, G).
    """
    squares = np.square(first_layer, dtype=np.float64).sum(axis=0)
    weight = squares[measured].sum() / squares.sum() if squares.sum() else 0.0
    return Coverage(int(measured.sum()), len(measured), float(weight))


def coverage_warning(
    found: Coverage, hint: str | None = None, *, allow_low: bool = False
) -> str | None:
    """Warn of a file that has few of the model's genes.

    Parameters
    ----------
    found
        What it has.
    hint
        What is known of the reason, to be told with it.
    allow_low
        Warn, however little it is.

    Returns
    -------
    str or None
        A sentence below :data:`WARN_BELOW`.

    Raises
    ------
    DataError
        Below :data:`REFUSE_BELOW`, unless ``allow_low``.
    """
    if found.share >= WARN_BELOW:
        return None
    sentence, hint = f"the file has only {found}", f"; {hint}" if hint else ""
    if found.share < REFUSE_BELOW and not allow_low:
        raise DataError(
            f"{sentence}: below {REFUSE_BELOW:.0%} an embedding means little; check how its genes "
            f"are named, or give --allow-low-coverage{hint}"
        )
    return (
        f"{sentence}: genes that were not measured count as average, so clusters may be off{hint}"
    )


def blank_cells(n_blank: int) -> str:
    """Warn of cells without a value in the model's genes, all of which have one place."""
    return (
        f"{count(n_blank, 'cell')} without a value in any of the model's genes: nothing "
        "tells them apart, so they have one place and one cluster, which mean nothing"
    )
