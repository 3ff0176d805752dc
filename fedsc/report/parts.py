"""What a report is made of: sections with texts, pictures and tables."""

import base64
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from fedsc.federated.annotation import LEAST_CELLS, UNKNOWN
from fedsc.plots.maps import draw_map, make_room
from fedsc.plots.style import GROUP_COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_DPI = 130
_MARKERS = 8  # genes of a cluster
_MOST_POINTS = 50_000  # drawn on a map: a picture shows no more
MOST_LABS = 100
"""Rows of a table by lab; more is in the labs' files."""


@dataclass(frozen=True)
class Picture:
    """A picture in the page itself; ``alt`` says what it shows to who cannot see it."""

    data: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows.

    Attributes
    ----------
    caption
        What it shows.
    head
        Names of the columns, all different.
    rows
        Texts, one a column.
    numbers
        Columns that hold numbers.
    colours
        A colour for every row, or none.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()
    colours: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading."""

    title: str
    texts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    code: str = ""


def picture(figure: "Figure", alt: str, caption: str) -> Picture:
    """Put a figure into the page."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return Picture(base64.b64encode(image.getvalue()).decode(), alt, caption, width, height)


def map_pictures(
    places: np.ndarray, groups: "Mapping[str, pd.Series | pd.Categorical]", points: str
) -> list[Picture]:
    """Draw the map once for each way to colour it.

    Parameters
    ----------
    places
        float (points, 2).
    groups
        Title of the picture to the group of every point, as of :func:`~fedsc.plots.maps.draw_map`.
    points
        What a point is.
    """
    import pandas as pd
    from matplotlib.figure import Figure

    n = len(places)
    shown = np.random.default_rng(0).permutation(n)[:_MOST_POINTS]
    some = "" if n <= _MOST_POINTS else f", {_MOST_POINTS:,} of {n:,} drawn at random"
    pictures = []
    for title, group in groups.items():
        figure = Figure(figsize=(3.8, 3.8), layout="constrained")
        draw_map(figure.subplots(), places[shown], pd.Series(group).iloc[shown], title)
        make_room(figure)
        pictures.append(
            picture(
                figure,
                f"Map of {n} {points} by {title.lower()}. The tables say the same in numbers.",
                f"Points are {points}, coloured by {title.lower()}{some}.",
            )
        )
    return pictures


def cluster_table(
    caption: str,
    figures: dict[str, list[str]],
    types: Sequence[str],
    shares: np.ndarray | None,
    markers: Sequence[Sequence[str]],
) -> Table:
    """List clusters, one a row, in the colours they have in the pictures.

    Parameters
    ----------
    caption
        What it shows.
    figures
        Columns of numbers, (k,) each, by name.
    types, shares
        As of :class:`~fedsc.data.annotated.Annotation`.
    markers
        Genes of every cluster, (k,), the best first.
    """
    k = len(markers)
    kinds = ["–"] * k
    if shares is not None and len(types):
        kinds = [
            kind if kind == UNKNOWN else f"{kind} ({share(part)})"
            for kind, part in zip(types, shares, strict=True)
        ]
    columns = {
        "cluster": [str(cluster) for cluster in range(k)],
        **figures,
        "suggested type": kinds,
        "markers": [", ".join(genes[:_MARKERS]) or "–" for genes in markers],
    }
    rows = list(zip(*columns.values(), strict=True))
    colours = [GROUP_COLOURS[i % len(GROUP_COLOURS)] for i in range(k)]
    return Table(caption, list(columns), rows, list(figures), colours)


def about_unknown(options: Mapping[str, Any]) -> str:
    """Say when a cluster's type is unknown, under the options of a run."""
    return (
        f"A type is {UNKNOWN} where fewer than {LEAST_CELLS} of the cluster's cells are annotated, "
        f"or no type has a share of {share(options['type-threshold'])} (type-threshold) of them."
    )


def number(value: float | None, digits: int = 2) -> str:
    """Write a number; a dash where it is not known."""
    if value is None or np.isnan(value):
        return "–"
    return f"{value:,.{digits}f}"


def share(value: float) -> str:
    """Write a share in %."""
    return f"{value:.0%}" if value == 0 or value >= 0.01 else "< 1%"


def first_labs(n: int) -> str:
    """Say in a caption that a table has not all of ``n`` labs; ``""`` where it has."""
    return f" (the first {MOST_LABS} of {n} labs)" if n > MOST_LABS else ""


def as_option(value: Any) -> str:
    """Write a value of an option as a person gives it: as TOML, text without its quotes."""
    written = tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip()
    if not isinstance(value, str):
        return written
    try:
        meant = str(tomllib.loads(f"value = {value}")["value"])
    except tomllib.TOMLDecodeError:
        meant = value  # taken as it is
    return value if meant == value else written
