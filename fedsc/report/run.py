"""``report.html``: a run for a person who was not there, from its folder alone."""

import json
import shlex
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import fedsc
from fedsc.config import Config
from fedsc.data.coverage import WARN_BELOW
from fedsc.files import replace
from fedsc.plots import CURVES, draw_composition, draw_curves
from fedsc.report.page import render
from fedsc.report.parts import (
    Picture,
    Section,
    Table,
    colours_of,
    map_pictures,
    number,
    picture,
    share,
)
from fedsc.results import Run

REPORT = "report.html"
_MARKERS = 8  # genes of a cluster
_MOST_ROWS = 100  # of labs × clusters; more is in the labs' files
_WAYS = {
    "graph": "graph clusters (number found)",
    "kmeans": "k-means (number known), from sums",
    "pooled": "k-means on the pooled embedding, as in the papers",
    "pooled_integrated": "the same on the integrated embedding",
}
_WHERE = ("output", "run-name", "resume")


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report of a run, replaced whole or not at all.

    Parameters
    ----------
    folder
        Of a run, finished or not.
    output
        The file; default: ``report.html`` in the folder.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If it is not the folder of a run, or a file in it is damaged.
    RunError
        If the file cannot be written.
    """
    path = folder / REPORT if output is None else output
    replace(path, report_of(Run(folder)).encode())
    return path


def report_of(run: Run) -> str:
    """Give the report of a run as one HTML page that asks nothing of any other."""
    sections = [
        _clusters(run),
        _map(run),
        _labs(run),
        _scores(run),
        _training(run),
        _warnings(run),
        _quality(run),
        _genes(run),
        _cost(run),
        _repeat(run),
    ]
    return render(
        title=f"FedSC run {run.folder.resolve().name}",
        lead=_lead(run),
        sections=[section for section in sections if section is not None],
        version=fedsc.__version__,
    )


def _lead(run: Run) -> list[str]:
    options, record = run.options, run.record
    name = options.get("method", "")
    if not run.finished:
        return [
            f"This run of {name} has not come to its end, so there are no scores yet.",
            f"It can go on: fedsc run --resume {run.folder.resolve().name}",
        ]
    labs, graph = record.get("labs") or {}, record["graph"]
    cells = sum(about["cells"] for about in labs.values())
    rounds = "without training" if name == "fedpca" else f"in {options['rounds']} rounds"
    one = f"{name} put {cells:,} cells of {len(labs)} labs into {_count(run)} clusters, {rounds}."
    ari, floor = graph.get("ari"), ((record.get("floor") or {}).get("graph") or {}).get("ari")
    if ari is None:
        return [one, "No lab names cell types, so nothing says how right the clusters are."]
    two = f"Graph clusters agree with the labs' cell types with ARI {ari:.2f}"
    if floor is None:
        return [one, f"{two} (1 = the same, 0 = as by chance)."]
    helped = "training has helped" if ari > floor else "training has not helped"
    return [one, f"{two}, without training with {floor:.2f}: {helped}."]


def _count(run: Run) -> int:
    return run.record["graph"]["clusters"] if run.clusters is None else run.clusters.k


def _clusters(run: Run) -> Section | None:
    found = run.clusters
    if found is None:
        return None
    markers = run.markers
    by_graph = found.centres is None
    graph = run.record.get("graph") or {}
    labs = graph.get("labs", []) if by_graph else []
    rows = []
    for cluster in range(found.k):
        best = markers[markers["cluster"] == cluster].head(_MARKERS)
        genes = ", ".join(
            f"{gene} ({supporting}/{measured})"
            for gene, supporting, measured in zip(
                best["gene"], best["labs_supporting"], best["labs_measured"], strict=True
            )
        )
        kind = ""
        if found.types:
            kind = f"{found.types[cluster]} ({share(found.shares[cluster])})"
        rows.append(
            (
                str(cluster),
                f"{found.sizes[cluster]:,}",
                share(found.sizes[cluster] / max(found.sizes.sum(), 1)),
                str(labs[cluster]) if cluster < len(labs) else "–",
                kind or "–",
                genes or "–",
            )
        )
    texts = []
    if by_graph and graph.get("stability") is not None:
        texts.append(
            f"Stability {graph['stability']:.2f}: how much the clusters agree (ARI) with those of "
            "a somewhat lower or higher resolution. Near 1 they do not hang on that choice; below "
            "0.6 or so they do."
        )
    texts.append(
        "A type is a suggestion: of the cluster's annotated cells, the share in brackets has it. "
        "A gene is followed by the number of labs in which it is higher inside the cluster than "
        "outside, of the labs that can say."
    )
    head = ("cluster", "cells", "share", "labs", "suggested type", "markers")
    table = Table(
        f"The {found.k} clusters of the pool, the largest first",
        head,
        rows,
        numbers=("cells", "share", "labs"),
        colours=colours_of(found.k),
    )
    return Section("Clusters", texts, tables=[table])


def _map(run: Run) -> Section | None:
    found = run.clusters
    if found is None or (found.places is None and "x" not in run.cells):
        return None
    places, table = run.places()
    titles = {"fedsc_cluster": "Cluster", "fedsc_type": "Suggested type", "lab": "Lab"}
    groups = {
        title: table[name].astype(str).to_numpy(dtype=object)
        for name, title in titles.items()
        if name in table
    }
    points = "cells" if "lab" in table else "micro-centres (groups of some cells)"
    texts = ["Near points are alike; distances between far groups mean little."]
    return Section("Map", texts, pictures=map_pictures(places, groups, points))


def _labs(run: Run) -> Section | None:
    counts = run.composition
    if counts.empty:
        if not run.finished:
            return None
        return Section(
            "Labs and clusters",
            [
                "The cells of each lab by cluster are not known here: only sums over all labs came "
                "to the server. Each lab has them in its own file and its own report."
                if run.options.get("files", True)
                else "The run was made without labs' files (files = false), so the cells of each "
                "lab by cluster were not kept."
            ],
        )
    head = ["lab", "cells", *(f"cluster {cluster}" for cluster in counts.columns)]
    rows = [
        (lab, f"{row.sum():,}", *(f"{n:,}" for n in row))
        for lab, row in counts.head(_MOST_ROWS).iterrows()
    ]
    table = Table(
        f"Cells of each lab by cluster{_first(len(counts))}", head, rows, numbers=head[1:]
    )
    return Section(
        "Labs and clusters",
        ["A cluster that a single lab holds is a type only that lab has, or its technique."],
        pictures=[_composition(run)],
        tables=[table],
    )


def _first(n: int) -> str:
    return f" (the first {_MOST_ROWS} of {n} labs)" if n > _MOST_ROWS else ""


def _composition(run: Run) -> Picture:
    from matplotlib.figure import Figure

    counts = run.composition.head(_MOST_ROWS)
    figure = Figure(figsize=(6.5, 1.4 + 0.35 * len(counts)), layout="constrained")
    draw_composition(figure.subplots(), counts)
    return picture(
        figure,
        "Bars: share of each cluster among the cells of each lab. The table below has the numbers.",
        "Share of each cluster among a lab's cells. Numbers in the bars are clusters.",
    )


def _scores(run: Run) -> Section | None:
    if not run.finished:
        return None
    table = run.scores
    known = table[["ari", "nmi", "silhouette"]].notna().any(axis=None)
    rows = []
    for way, title in _WAYS.items():
        here = table[table["way"] == way].set_index("floor")
        if here.empty:
            continue
        trained = here.loc[False]
        floor = here.loc[True] if True in here.index else None
        rows.append(
            (
                title,
                number(trained["clusters"], 0),
                *(number(trained[name]) for name in ("ari", "nmi", "silhouette")),
                *("–" if floor is None else number(floor[name]) for name in ("ari", "nmi")),
            )
        )
    head = ("clusters by", "number", "ARI", "NMI", "silhouette", "floor: ARI", "floor: NMI")
    texts = [
        "ARI and NMI compare clusters with the labs' cell types: 1 = the same, 0 = as by chance. "
        "The silhouette (−1 to 1) says how apart clusters are, whatever the types.",
        "The floor is the same clustering without any training, on principal components. A method "
        "that is not above its floor has not helped.",
    ]
    if not known:
        texts = ["No lab names cell types, so there are no scores."]
    if run.record["integration"]["done"]:
        texts.append("The papers' scores are of the embedding before integration.")
    return Section(
        "Scores",
        texts,
        tables=[Table("Scores beside the floor", head, rows, numbers=head[1:])] if known else [],
    )


def _training(run: Run) -> Section | None:
    history = run.history
    if history.empty or "loss" not in history:
        return None
    trained = history[history["loss"].notna()]
    last = trained[trained["round"] == trained["round"].max()]
    rows = [
        {key: None if value != value else value for key, value in row.items()}
        for row in trained.drop(columns="failed", errors="ignore").to_dict("records")
    ]
    mu = last["mu"].astype(float).mean()
    texts = [
        "The loss should fall and then settle. d is how far a lab's weights are from the global "
        "model. μ is the share of its own weights that a lab starts the next round with: near 0 "
        "labs share one model, near 1 they keep their own and learn little from each other.",
        f"In the last round the mean loss was {number(last['loss'].astype(float).mean(), 3)} and "
        f"the mean μ {number(mu)}.",
    ]
    if mu > _OWN_MODELS:
        texts.append("Here labs keep their own models: the global model is one of many.")
    collapsed = last["embedding_std"].astype(float) < 0.01 if "embedding_std" in last else []
    if any(collapsed):
        texts.append("The embedding of some lab has collapsed: all its cells look alike.")
    return Section("Training", texts, pictures=_curves(rows, run.alpha))


def _curves(rows: list[dict[str, Any]], alpha: float | None) -> list[Picture]:
    from matplotlib.figure import Figure

    figures = [Figure(figsize=(4.6, 3.4), layout="constrained") for _ in CURVES]
    draw_curves([figure.subplots() for figure in figures], rows, alpha)
    return [
        picture(figure, f"Curves by lab over the rounds: {title}.", f"{title}, by round and lab.")
        for figure, title in zip(figures, CURVES.values(), strict=True)
    ]


_OWN_MODELS = 0.8


def _warnings(run: Run) -> Section:
    history = run.history
    rounds: dict[tuple[str, str], list[int]] = defaultdict(list)
    if "failed" in history:
        for row in history[history["failed"].notna()].itertuples():
            rounds[str(row.lab), str(row.failed)].append(int(row.round))
    rows = [
        (
            lab,
            str(len(failed)),
            ", ".join(map(str, failed[:10])) + (" …" if failed[10:] else ""),
            why,
        )
        for (lab, why), failed in sorted(rounds.items())
    ]
    table = Table(
        "Rounds in which a lab gave no update",
        ("lab", "rounds", "which", "why"),
        rows,
        numbers=("rounds",),
    )
    texts = [] if run.warnings else ["The run gave no warnings about its scores."]
    if not rows:
        texts.append("No lab failed in a round.")
    return Section("Warnings", texts, run.warnings, tables=[table] if rows else [])


_LIMITS = ("min-genes", "max-mito", "min-cells-per-gene")


def _quality(run: Run) -> Section | None:
    found = run.record.get("quality")
    if not found:
        return None
    rows = [
        (lab, f"{own['cells']:,}", f"{own['left-out']:,}", share(own["left-out"] / own["cells"]))
        for lab, own in sorted(found["labs"].items())[:_MOST_ROWS]
    ]
    head = ("lab", "cells", "left out", "share")
    texts = [
        f"Of {found['cells']:,} cells {found['kept']:,} are kept, of {found['genes']:,} genes "
        f"{found['genes-kept']:,}. Limits: "
        + ", ".join(f"{name} {_text(found[name])}" for name in _LIMITS)
        + "."
    ]
    caption = f"Cells that quality control left out{_first(len(found['labs']))}"
    return Section("Quality control", texts, tables=[Table(caption, head, rows, numbers=head[1:])])


def _genes(run: Run) -> Section | None:
    labs = run.record.get("labs")
    if not labs:
        return None
    first = next(iter(labs.values()))
    wanted = first["chosen"]
    rows = [
        (lab, f"{own['genes']:,}", f"{own['measured']:,}", share(own["measured"] / max(wanted, 1)))
        for lab, own in sorted(labs.items())[:_MOST_ROWS]
    ]
    few = [lab for lab, own in labs.items() if own["measured"] < WARN_BELOW * wanted]
    vocabulary = run.record["vocabulary"]
    texts = [
        f"The labs agreed on {vocabulary:,} genes ({run.options['genes']} of their panels). The "
        f"model looks at the {wanted:,} of them that vary most."
    ]
    head = ("lab", "genes measured", "of the model's", "coverage")
    caption = f"Genes of each lab{_first(len(labs))}"
    table = Table(caption, head, rows, numbers=head[1:])
    low = [f"Below {WARN_BELOW:.0%} of the model's genes: {', '.join(few)}."] if few else []
    return Section("Genes", texts, low, tables=[table])


def _cost(run: Run) -> Section | None:
    phases = _phases(run.folder / "log.jsonl")
    rows = [(name, number(seconds, 1)) for name, seconds in phases]
    tables = []
    if rows:
        rows.append(("all", number(sum(seconds for _, seconds in phases), 1)))
        tables.append(Table("Time of each phase", ("phase", "seconds"), rows, numbers=("seconds",)))
    asked = run.record.get("questions") or {}
    if asked:
        counts = [(name, str(count)) for name, count in asked.items()]
        caption = "Questions put to the labs (the floor's are not counted)"
        tables.append(Table(caption, ("about", "questions"), counts, numbers=("questions",)))
    if not tables:
        return None
    texts = []
    model = run.folder / "model.safetensors"
    trained = run.history[run.history["loss"].notna()] if not run.history.empty else []
    if len(trained) and model.exists():
        size = model.stat().st_size
        texts.append(
            f"Training moved about {2 * len(trained) * size / 2**20:,.0f} MiB: {size / 2**20:.2f} "
            f"MiB of weights, to a lab and back, {len(trained):,} times. What questions and "
            "answers weighed was not measured."
        )
    return Section("Time and traffic", texts, tables=tables)


def _phases(log: Path) -> list[tuple[str, float]]:
    """Read how long each phase took, in order; of a resumed run, all its parts together."""
    if not log.exists():
        return []
    seconds: dict[str, float] = {}
    current, began, before = "", None, None
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
            now = datetime.fromisoformat(said["time"])
        except (ValueError, KeyError, TypeError):
            continue
        if "phase" in said:
            if current and began is not None and said["phase"] != FIRST_PHASE:
                seconds[current] = seconds.get(current, 0.0) + (now - began).total_seconds()
            elif current and began is not None and before is not None:  # it was stopped there
                seconds[current] = seconds.get(current, 0.0) + (before - began).total_seconds()
            current, began = str(said["phase"]), now
        before = now
    if current and began is not None and before is not None and before > began:
        seconds[current] = seconds.get(current, 0.0) + (before - began).total_seconds()
    return list(seconds.items())


FIRST_PHASE = "gathering the labs"
"""Of every start of a run; ``server_app`` logs it."""


def _repeat(run: Run) -> Section:
    options = run.options
    default = Config.from_mapping({"method": options.get("method", "fedsc")}).to_mapping()
    other = {
        name: value
        for name, value in options.items()
        if (value != default.get(name) and name not in _WHERE) or name == "method"
    }
    rows = [(name, _text(value), _text(default.get(name))) for name, value in other.items()]
    settings = " ".join(f"--set {shlex.quote(f'{n}={_text(v)}')}" for n, v in other.items())
    head = ("option", "here", "default")
    texts = []
    dataset = str(options.get("dataset", ""))
    if "/" in dataset and not Path(dataset).exists():
        texts.append(
            "The data do not lie where the run found them; of a run from Python they were in "
            "memory. Give dataset where they are now."
        )
    versions = run.record.get("versions") or {}
    tables = [
        Table("Options that differ from their defaults", head, rows),
        Table("Versions", ("package", "version"), [(n, v or "–") for n, v in versions.items()]),
    ]
    return Section("To repeat it", texts, tables=tables, code=f"fedsc run {settings}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
