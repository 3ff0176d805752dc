"""The look that all figures share, and how they are saved."""

from pathlib import Path
from typing import TYPE_CHECKING

from fedsc.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart under colour blindness; lines, markers and hatches vary too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#555555")
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "ooo", "---")
DISTINCT = len(COLOURS)
"""Groups above this number have their names on the picture, since colours come again."""


def save(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure, in the format that the file's ending names, whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), dpi=dpi)
