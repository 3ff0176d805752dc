"""A suite's figures; legible in grey and for colour-blind readers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedsc.config import Config
from fedsc.options import SplitOptions
from fedsc.plots.attention import attention_map
from fedsc.plots.maps import scatter_groups, tsne
from fedsc.plots.style import COLOURS, HATCHES, LINES, save
from fedsc.run_files import METRICS
from simulations.bench.cell import EMBEDDING, ROW, Cell, labs_of_run, types_of, whole_set
from simulations.bench.suite import Place, Suite
from simulations.bench.table import places_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Planned = Sequence[tuple[Place, Cell]]

_SCORES = {"ari": "ARI", "nmi": "NMI"}


def draw(suite: Suite, planned: Planned, rows: pd.DataFrame, cells: Path, into: Path) -> list[Path]:
    """Draw what the suite asks for, from the cells that are finished.

    Parameters
    ----------
    suite, planned
        The suite and its cells.
    rows
        Of the finished cells, as :func:`simulations.bench.table.frame` lays them out.
    cells
        Folder of the cells' folders.
    into
        Folder for the figures.

    Returns
    -------
    list of Path
        The files written.
    """
    files = []
    for name, figure in _figures(suite, planned, rows, cells):
        files.append(into / f"{name}.png")
        save(figure, files[-1], dpi=120)
    if "splits" in suite.figures:
        files += list(_draw_splits(planned, into))
    return files


def _figures(
    suite: Suite, planned: Planned, rows: pd.DataFrame, cells: Path
) -> "Iterator[tuple[str, Figure]]":
    if "bars" in suite.figures:
        places = {place for place, _ in planned}
        printed = {(p.words, p.dataset): scores for p in places if (scores := suite.printed(p))}
        yield "bars", bars(rows, printed)
    if "dots" in suite.figures:
        yield "dots", dots(rows)
    if "sweep" in suite.figures:
        sets = rows.groupby("dataset", sort=False)
        for (name, of_set), axis in product(sets, _axes(rows)):
            stem = f"-{Path(name).stem}" if len(sets) > 1 else ""
            yield f"sweep-{axis}{stem}", sweep(of_set, axis)
    done = [(place, cell) for place, cell in planned if (cells / cell.key / ROW).exists()]
    for data in suite.datasets:
        here = [(place, cell) for place, cell in done if place.dataset == data.name]
        stem = Path(data.name).stem
        if "pulls" in suite.figures and here:
            yield f"pulls-{stem}", pulls(_metrics(here, cells))
        if "maps" in suite.figures and here:
            yield f"maps-{stem}", maps(_embeddings(here, cells))
        if "attention" in suite.figures and (figure := _attention(here, cells)):
            yield f"attention-{stem}", figure


def bars(rows: pd.DataFrame, published: Mapping[tuple[str, str], tuple[float, ...]]) -> "Figure":
    """Draw ARI and NMI as bars, a dot per seed, a diamond where a paper's figure is; a panel a set.

    Parameters
    ----------
    rows
        With the columns ``line``, ``at`` (JSON), ``control``, ``dataset``, ``ari`` and ``nmi``.
    published
        ARI, NMI, silhouette in % by line (:attr:`~simulations.bench.suite.Place.words`) and set.
    """
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    sets = list(dict.fromkeys(rows["dataset"]))
    names = _words(rows)
    lines = list(dict.fromkeys(names))
    figure = Figure(figsize=(1.5 + 4.5 * len(sets), 0.6 + 0.62 * len(lines)), layout="constrained")
    grid = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    with_published = False
    for axes, name in zip(grid, sets, strict=True):
        for j, score in enumerate(_SCORES):
            for i, line in enumerate(lines):
                values = 100 * rows.loc[(rows["dataset"] == name) & (names == line), score].dropna()
                if values.empty:
                    continue
                at = i + (j - 0.5) * 0.38
                axes.barh(
                    at,
                    values.mean(),
                    height=0.36,
                    color=COLOURS[j],
                    hatch=HATCHES[j],
                    edgecolor="black",
                    linewidth=0.5,
                )
                axes.plot(values, [at] * len(values), "o", color="black", markersize=3)
                if (line, name) in published:
                    with_published = True
                    there = published[line, name][j]
                    axes.plot(there, at, "D", color="white", markeredgecolor="black", markersize=5)
        axes.set(title=name, xlabel="%", xlim=(0, 100))
        axes.set_yticks(range(len(lines)), lines)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].invert_yaxis()
    handles: list[Artist] = [
        Patch(facecolor=COLOURS[j], hatch=HATCHES[j], edgecolor="black", label=title)
        for j, title in enumerate(_SCORES.values())
    ]
    handles.append(Line2D([], [], ls="", marker="o", color="black", markersize=3, label="a seed"))
    if with_published:
        diamond = Line2D([], [], ls="", marker="D", color="white", mec="black", label="published")
        handles.append(diamond)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        fontsize="small",
        frameon=False,
    )
    return figure


def dots(rows: pd.DataFrame) -> "Figure":
    """Draw each line's ARI on each set, the mean over seeds; for suites of many sets.

    Parameters
    ----------
    rows
        With the columns ``line``, ``at`` (JSON), ``control``, ``dataset`` and ``ari``.
    """
    from matplotlib.figure import Figure

    rows = rows[~rows["control"]].assign(line=_words)
    sets, lines = (list(dict.fromkeys(rows[name])) for name in ("dataset", "line"))
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(sets)), layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(lines):
        mean = 100 * rows[rows["line"] == line].groupby("dataset")["ari"].mean()
        axes.plot(
            mean,
            [sets.index(name) for name in mean.index],
            "osD^vPX*<>hd"[i % 12],
            color=COLOURS[i % len(COLOURS)],
            markeredgecolor="black",
            markeredgewidth=0.4,
            alpha=0.85,
            label=line,
        )
    axes.set_yticks(range(len(sets)), sets)
    axes.set(xlabel="ARI, %", xlim=(0, 100))
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, axes, columns=2)
    return figure


def sweep(rows: pd.DataFrame, axis: str) -> "Figure":
    """Draw ARI and NMI over one option of the grid, mean and standard deviation over seeds.

    Parameters
    ----------
    rows
        Of one set, with the columns ``line``, ``at`` (JSON), ``control``, ``ari`` and ``nmi``.
    axis
        The option; the others are held at a value each, a line for every combination of them
        with at least two values of ``axis``.
    """
    from matplotlib.figure import Figure

    here = _series(rows, axis)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (score, title) in zip(panels, _SCORES.items(), strict=True):
        drawn = 0
        for name, line in here.groupby("series", sort=False):
            if line[axis].nunique() < 2:
                continue
            over = (100 * line.set_index(axis)[score].astype(float)).groupby(level=0)
            mean, std = over.mean(), over.std().fillna(0.0)
            axes.errorbar(
                mean.index.astype(float),
                mean,
                std,
                label=name,
                color=COLOURS[drawn % len(COLOURS)],
                linestyle=LINES[drawn % len(LINES)],
                marker="osD^vPX*"[drawn % 8],
                capsize=3,
            )
            drawn += 1
        axes.set(xlabel=axis, ylabel=f"{title}, %")
        axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, panels[0], columns=2)
    return figure


def pulls(metrics: Mapping[str, pd.DataFrame]) -> "Figure":
    """Draw divergence d and local share μ over the rounds: mean over labs and seeds, and range.

    Parameters
    ----------
    metrics
        Lines of ``metrics.jsonl`` of all seeds, by the name of the rule.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    titles = {"d": "divergence d from the global model", "mu": "local share μ"}
    panels = figure.subplots(1, 2)
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for i, (name, rows) in enumerate(metrics.items()):
            over = rows.dropna(subset=["d"]).groupby("round")[column]
            mean = over.mean()
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
            axes.plot(mean.index, mean, label=name, **style)
            axes.fill_between(mean.index, over.min(), over.max(), color=style["color"], alpha=0.15)
        axes.set(title=title, xlabel="round")
        axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, panels[0], columns=4)
    return figure


def maps(panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "Figure":
    """Draw each method's embedding by t-SNE, cells coloured by type (mask-sc Fig. 3).

    Parameters
    ----------
    panels
        Embedding, float (cells, dimensions), and type of every cell, by the name of the method.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns + 1.2, 3.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, (embedding, types)) in zip(grid, panels.items(), strict=False):
        scatter_groups(axes, tsne(embedding, seed=0), types)
        axes.set_title(name, fontsize="medium")
    for axes in grid[len(panels) :]:
        axes.axis("off")
    figure.legend(
        *grid[0].get_legend_handles_labels(),
        loc="outside right upper",
        fontsize="small",
        markerscale=2,
    )
    return figure


def _legend_below(figure: "Figure", panel: "Axes", columns: int) -> None:
    """Name the lines of a panel below all panels, where they cover none."""
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, fontsize="small", loc="outside lower center", ncols=columns)


def _words(rows: pd.DataFrame) -> pd.Series:
    """Name each row's line, control and point of the grid."""
    return pd.Series([place.words for place in places_of(rows)], index=rows.index, dtype=str)


def _series(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Put the swept option in a column, and what else tells runs apart in ``series``.

    A point that does not name an option of a run has its default.
    """
    default = Config().to_mapping().get(axis)
    points = [json.loads(text) for text in rows["at"]]
    others = [
        ", ".join([line, *(f"{name} = {value}" for name, value in at.items() if name != axis)])
        for line, at in zip(rows["line"], points, strict=True)
    ]
    spread = rows.assign(**{axis: [at.get(axis, default) for at in points], "series": others})
    return spread[~spread["control"] & spread[axis].notna()]


def _axes(rows: pd.DataFrame) -> list[str]:
    """List the grid's options that can be an axis: numbers, at least two of them."""
    at = pd.DataFrame([json.loads(text) for text in rows["at"]])
    numbers = at.select_dtypes("number")
    return [str(name) for name in numbers if numbers[name].nunique() > 1]


def _metrics(done: Planned, cells: Path) -> dict[str, pd.DataFrame]:
    """Read the metrics of the finished federated cells, by line."""
    found: dict[str, list[pd.DataFrame]] = {}
    for place, cell in done:
        path = cells / cell.key / METRICS
        if path.exists() and not place.control:
            found.setdefault(place.line, []).append(pd.read_json(path, lines=True))
    return {line: pd.concat(parts) for line, parts in found.items()}


def _embeddings(done: Planned, cells: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give the embedding and types of each line's first finished seed."""
    from client_app.subjects import embedding_of

    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place, cell in done:
        if place.control or place.line in found:
            continue
        folder = cells / cell.key
        if cell.centralised:
            with np.load(folder / EMBEDDING) as file:
                found[place.line] = file["embedding"], types_of([whole_set(cell)])
        else:
            labs = labs_of_run(cell.config(cells), folder)
            parts = [embedding_of(folder / "labs" / lab, "") for lab in labs]
            found[place.line] = np.concatenate(parts), types_of(labs.values())
    return found


def _attention(done: Planned, cells: Path) -> "Figure | None":
    """Draw what the first finished mask-sc looks at, by cell type (mask-sc Fig. 5)."""
    from fedsc.baselines.mask_sc import PRESETS

    for _, cell in done:
        if cell.method != "mask-sc":
            continue
        with np.load(cells / cell.key / EMBEDDING) as file:
            seen, places = file["attention_mean"], file["patch_places"]
        side = int(cell.options.get("side", PRESETS["base"].side))
        return attention_map(seen, places, side, types_of([whole_set(cell)]))
    return None


def _draw_splits(planned: Planned, into: Path) -> Iterator[Path]:
    """Draw the labs of seed 0, once per different split."""
    from fedsc.data.reading.read import read
    from fedsc.data.registry import resolve
    from partitioning import partition
    from partitioning.simulation import covering, how_of
    from partitioning.table import plot, table

    seen: set[str] = set()
    for place, cell in planned:
        if cell.centralised or cell.seed or place.control:
            continue
        config, source = cell.config(Path()), resolve(cell.dataset)
        split = covering(config.split, source)
        name = "-".join([Path(cell.dataset).stem, *_split_in_words(split)])
        if name in seen:
            continue
        seen.add(name)
        whole = read(source.path, how_of(config.data, source))
        path = into / f"split-{name}.png"
        plot(table(partition(whole, split, config.run.seed), whole.labels), path)
        yield path


def _split_in_words(split: SplitOptions) -> list[str]:
    if split.scheme == "subtypes":
        return [f"k{split.subtypes_per_lab}", split.cover]
    return [split.scheme]
