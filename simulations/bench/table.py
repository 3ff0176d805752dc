"""From rows to a Markdown table: mean ± std, and differences to the reference, seed by seed."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedsc.data.catalogue import DATASETS
from fedsc.rng import numpy_generator
from simulations.bench.cell import Cell, Row
from simulations.bench.suite import Line, Place, Suite
from simulations.bench.warned import concerning, sentences

SCORES = {"ari": "ARI", "nmi": "NMI", "silhouette": "silhouette"}
_MIXING = {
    "ari": "ARI",
    "nmi": "NMI",
    "rare_f1": "rare F1",
    "ilisi": "iLISI",
    "clisi": "cLISI",
    "batch_asw": "batch ASW",
    "type_asw": "type ASW",
    "connectivity": "connectivity",
}
_PERCENT = 100.0
_DRAWS = 10_000
_MANY = 4  # sets, above which the page begins with means over them


@dataclass(frozen=True)
class Paired:
    """A line against the reference, over the seeds both have.

    Attributes
    ----------
    mean
        Of the differences.
    low, high
        95 % bootstrap interval of the mean (percentiles of 10 000 resamples of the seeds).
    better, n
        Seeds with a positive difference, of how many.
    p
        Two-sided sign test, ties left out; with five seeds it cannot be below 0.0625.
    """

    mean: float
    low: float
    high: float
    better: int
    n: int
    p: float


def paired(line: Mapping[int, float], reference: Mapping[int, float]) -> Paired | None:
    """Compare two lines by seed.

    Parameters
    ----------
    line, reference
        Score by seed.

    Returns
    -------
    Paired or None
        ``None`` when they share fewer than two seeds.
    """
    from scipy.stats import binomtest

    seeds = sorted(line.keys() & reference.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([line[seed] - reference[seed] for seed in seeds])
    draws = numpy_generator(0, "bootstrap").choice(differences, (_DRAWS, len(seeds))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf")
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Paired(float(differences.mean()), float(low), float(high), better, len(seeds), p)


def seen(line: Line, row: Row) -> Row:
    """Give a run's row as a line shows it: with the scores of the clusters the line is about."""
    if line.clusters == "k-means":
        return row
    graph = {name: row[f"graph_{name}"] for name in ("ari", "nmi", "rare_f1", "clusters")}
    return {**row, **graph, "k_is": "graph", "silhouette": None, "calinski_harabasz": None}


def frame(
    suite: Suite, planned: Sequence[tuple[Place, Cell]], rows: Mapping[str, Row]
) -> pd.DataFrame:
    """Lay the finished cells out, one row per (line, set, grid point, seed).

    Returns
    -------
    pd.DataFrame
        The columns of a cell's row, before them ``line``, ``at`` (JSON), ``control`` and
        ``config_hash``.
    """
    lines = {line.name: line for line in suite.lines}
    records = [
        {
            "line": place.line,
            "at": json.dumps(dict(place.at)),
            "control": place.control,
            "config_hash": cell.digest,
            **seen(lines[place.line], rows[cell.key]),
        }
        for place, cell in planned
        if cell.key in rows
    ]
    # A control that several grid points share stands once.
    return pd.DataFrame(records).drop_duplicates(ignore_index=True)


def places_of(rows: pd.DataFrame) -> list[Place]:
    """Give the place of every row of :func:`frame`."""
    columns = (rows[name] for name in ("dataset", "line", "at", "control"))
    return [
        Place(dataset, line, tuple(map(tuple, json.loads(at).items())), bool(control))
        for dataset, line, at, control in zip(*columns, strict=True)
    ]


def markdown(
    suite: Suite, planned: Sequence[tuple[Place, Cell]], rows: Mapping[str, Row], command: str
) -> str:
    """Write a suite's page: what was run, a table per set, and what ``command`` would add."""
    lines = {line.name: line for line in suite.lines}
    by_place: dict[Place, dict[int, Row]] = {}
    for place, cell in planned:
        seeds = by_place.setdefault(place, {})
        if cell.key in rows:
            seeds[cell.seed] = seen(lines[place.line], rows[cell.key])
    parts = [f"# {suite.title}", suite.about.strip(), _options_in_words(suite)]
    parts += tables(suite, by_place, "##", command)
    return "\n\n".join(parts) + "\n"


def tables(
    suite: Suite, by_place: Mapping[Place, Mapping[int, Row]], heading: str, command: str
) -> list[str]:
    """Write a table for every set of which something is finished, and what they mean.

    Before them stand means, if there are many sets, and how far the papers' figures are; after
    them the warnings of the runs and the lines that have none.

    Parameters
    ----------
    suite
        The suite.
    by_place
        Rows of finished runs by place and seed.
    heading
        What begins a heading.
    command
        What would run the lines that are not finished.
    """
    lines = {line.name: line for line in suite.lines}
    done = {
        place: {
            seed: {**row, "warning": concerning(lines[place.line], row)}
            for seed, row in seeds.items()
        }
        for place, seeds in by_place.items()
        if seeds
    }
    parts: list[str] = []
    if done:
        parts += _means(suite, done, heading) if len(suite.datasets) > _MANY else []
        parts += _distances(suite, done, heading)
        for data in suite.datasets:
            places = {place: seeds for place, seeds in done.items() if place.dataset == data.name}
            if places:
                parts += [f"{heading} {data.name}", _table(suite, places)]
        parts.append(_legend(suite, len({seed for seeds in done.values() for seed in seeds})))
        parts += sentences(done)
    waiting = [place for place in by_place if place not in done]
    return [*parts, _not_run(waiting, command)] if waiting else parts


def _not_run(waiting: Sequence[Place], command: str) -> str:
    """List what has no row, by set, with the command that would run it."""
    by_set: dict[str, list[str]] = {}
    for place in waiting:
        by_set.setdefault(place.dataset, []).append(place.words)
    absent = [dataset for dataset in by_set if _by_hand(dataset)]
    here = {dataset: words for dataset, words in by_set.items() if dataset not in absent}
    parts = [f"**Not run** (rows: {len(waiting)}): `{command}` would.", ""]
    parts += [f"- {dataset}: {'; '.join(words)}" for dataset, words in here.items()]
    if absent:
        parts.append(
            f"- not at hand (`fedsc datasets` tells where each comes from): {', '.join(absent)}"
        )
    return "\n".join(parts)


def _by_hand(dataset: str) -> bool:
    """Say whether a set can only be fetched by hand."""
    known = DATASETS.get(dataset)
    return known is not None and known.url is None and not known.file


def _legend(suite: Suite, seeds: int) -> str:
    """Say what the columns of a table are, of which a line has up to ``seeds`` seeds."""
    shown = " / ".join(_scores(suite).values())
    compared = (
        f"{shown} in %, mean ± standard deviation over seeds. Δ ARI is the "
        f"difference to {suite.reference} on the same seeds. Beside it are the 95 % bootstrap "
        "interval of its mean, the number of seeds on which it is positive, and the p of a sign "
        f"test ({seeds} seeds cannot give less than {2 / 2**seeds:.2g}). "
    )
    return (
        f"{compared if seeds > 1 else f'{shown} in %, of one seed, so without spread and test. '}"
        "*true k*: k-means is told the number of types; nothing else of the labels is used. *IID "
        "control*: the same run on labs dealt at random, where a lab says nothing about labels. "
        "CPU s (CPU time), MB (what labs sent and got) and CH (Calinski–Harabasz index) are "
        "medians over seeds."
    )


def _means(suite: Suite, by_place: Mapping[Place, Mapping[int, Row]], heading: str) -> list[str]:
    """Average over sets, those with batches and those without, of which some run is finished.

    A line that is not finished on one of them stands in no mean.
    """
    parts, scores = [], _scores(suite)
    mixed = len({bool(data.batches) for data in suite.datasets}) > 1
    for words, batches in (("with batches", True), ("without batches", False)):
        title = f"All sets{f' {words}' if mixed else ''}"
        rows: dict[str, dict[str, list[Row]]] = {}
        for place, seeds in by_place.items():
            if not place.at and seeds:
                name = _name(place, {})
                rows.setdefault(name, {})[place.dataset] = list(seeds.values())
        names = [data.name for data in suite.datasets if bool(data.batches) == batches]
        there = [name for name in names if any(name in of_sets for of_sets in rows.values())]
        whole = {line: of for line, of in rows.items() if there and set(there) <= set(of)}
        if not whole:
            continue
        head = ["method", *scores.values(), "seeds"]
        table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for line, of_sets in whole.items():
            cells = [_mean_of_means([of_sets[name] for name in there], s) for s in scores]
            table.append(f"| {' | '.join([line, *cells, _range(map(len, of_sets.values()))])} |")
        over = f"Mean over {len(there)} sets: {', '.join(there)}."
        parts += [f"{heading} {title}", over, "\n".join(table)]
    return parts


def _distances(
    suite: Suite, by_place: Mapping[Place, Mapping[int, Row]], heading: str
) -> list[str]:
    """Say per line how far its means are from the published figures, over all rows it has.

    Nothing where no line has two: the tables show one row's distance as well.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    counts: dict[str, list[int]] = {}
    for place, seeds in by_place.items():
        published = suite.printed(place)
        if published and seeds:
            of_seeds = [_PERCENT * float(np.mean(_known(seeds, score))) for score in ("ari", "nmi")]
            rows.setdefault(place.line, []).append(
                tuple(ours - theirs for ours, theirs in zip(of_seeds, published, strict=False))
            )
            counts.setdefault(place.line, []).append(len(seeds))
    if max(map(len, rows.values()), default=0) < 2:
        return []
    head = "| method | rows | ARI − published | its size | NMI − published | its size | seeds |"
    lines = [head, f"|{'---|' * 7}"]
    for line, off in rows.items():
        shown = (
            f"{np.mean(one):+.1f} | {np.mean(np.abs(one)):.1f}" for one in zip(*off, strict=True)
        )
        lines.append(f"| {line} | {len(off)} | {' | '.join(shown)} | {_range(counts[line])} |")
    words = "Means over the published rows, of the difference and of its size."
    return [f"{heading} Distance to the published figures", words, "\n".join(lines)]


def _range(numbers: Iterable[int]) -> str:
    """Write the smallest and the largest of some numbers."""
    known = sorted(set(numbers))
    return f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])


def _known(seeds: Mapping[int, Row], score: str) -> list[float]:
    return [float(value) for row in seeds.values() if (value := row.get(score)) is not None]


def _mean_of_means(sets: Sequence[Sequence[Row]], score: str) -> str:
    values = [[row.get(score) for row in seeds] for seeds in sets]
    known = [[float(v) for v in of_set if v is not None] for of_set in values]
    if not all(known):
        return "–"
    return f"{_PERCENT * float(np.mean([np.mean(of_set) for of_set in known])):.1f}"


def _table(suite: Suite, places: Mapping[Place, Mapping[int, Row]]) -> str:
    grid = sorted({name for place in places for name, _ in place.at})
    scores = _scores(suite)
    head = ["method", *grid, "k", *scores.values(), "Δ ARI", "published"]
    head += ["seeds", "CPU s", "MB", "CH"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for place, seeds in places.items():
        at = dict(place.at)
        cells = [
            _name(place, seeds),
            *(str(at.get(name, "")) for name in grid),
            _k(seeds.values()),
            *(_spread([row.get(score) for row in seeds.values()]) for score in scores),
            _difference(suite, places, place),
            " / ".join(f"{score:.2f}" for score in suite.printed(place)),
            str(len(seeds)),
            _median([row["cpu_seconds"] for row in seeds.values()]),
            _median([_megabytes(row) for row in seeds.values()]),
            _median([row.get("calinski_harabasz") for row in seeds.values()]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores(suite: Suite) -> dict[str, str]:
    return _MIXING if suite.mixing else SCORES


def _name(place: Place, seeds: Mapping[int, Row]) -> str:
    warned = " (see the warning)" if any(row["warning"] for row in seeds.values()) else ""
    return f"{place.line}{', IID control' if place.control else ''}{warned}"


def _k(rows: Collection[Row]) -> str:
    """Say where the number of clusters is from, and what it was where nobody gave it."""
    kinds = ", ".join(sorted({str(row["k_is"]) for row in rows}))
    found = [int(k) for row in rows if (k := row.get("clusters")) is not None]
    return f"{kinds}: {_range(found)}" if found and "k" not in kinds.split() else kinds


def _difference(suite: Suite, places: Mapping[Place, Mapping[int, Row]], place: Place) -> str:
    if place.line == suite.reference and not place.control:
        return "reference"
    # The reference at the same point of the grid, or, for a line without it, at its only one.
    candidates = [
        other
        for other in places
        if other.line == suite.reference and not other.control and other.at == place.at
    ]
    if not candidates:
        return ""
    ours, theirs = (
        {seed: float(row["ari"]) for seed, row in places[p].items() if row["ari"] is not None}
        for p in (place, candidates[0])
    )
    found = paired(ours, theirs)
    if found is None:
        return ""
    mean, low, high = (_PERCENT * value for value in (found.mean, found.low, found.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], {found.better}/{found.n}, p {found.p:.2f}"


def _spread(values: Sequence[Any]) -> str:
    known = [_PERCENT * float(value) for value in values if value is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.1f}"
    return f"{np.mean(known):.1f} ± {np.std(known, ddof=1):.1f}"


def _median(values: Sequence[Any]) -> str:
    known = [float(value) for value in values if value is not None and not math.isnan(value)]
    if not known:
        return "–"
    median = float(np.median(known))
    return f"{median:.0f}" if median >= 10 else f"{median:.2g}"


def _megabytes(row: Row) -> float | None:
    up, down = row["bytes_from_labs"], row["bytes_to_labs"]
    return None if up is None or down is None else (float(up) + float(down)) / 1e6


def _options_in_words(suite: Suite) -> str:
    words = [f"`{name} = {value}`" for name, value in suite.federated.items()]
    words += [
        f"`{name} = {value}` on {data.name}"
        for data in suite.datasets
        for name, value in data.federated.items()
    ]
    return f"Federated lines: {', '.join(words)}; else the defaults." if words else ""
