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
"""Lines above this number have no colour of their own."""

# Each the farthest from those before it, white and light grey, among colours that are neither very
# dark, light nor vivid: distances in CIELAB, three tenths of them as under colour blindness.
GROUP_COLOURS = (
    *COLOURS,
    "#690087", "#87001E", "#69F078", "#5A5A00", "#6978FF", "#C3C378", "#FF9687", "#FF87FF",
    "#008700", "#F01E78", "#00F0E1", "#78004B", "#F03C4B", "#004B1E", "#E1C3FF", "#C31E96",
    "#87B400", "#4B3C69", "#96694B", "#008796", "#003C96", "#9669C3", "#87E1A5", "#873C00",
    "#C3873C", "#879678", "#9696B4", "#69964B", "#C35A69", "#96A5FF", "#78D2E1", "#4B3C1E",
)  # fmt: skip
"""Of groups of cells, the first eight as all else; above this number colours come again."""


def save(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Save a figure, in the format that the file's ending names, whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), dpi=dpi)
