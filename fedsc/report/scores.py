"""Scores of the clusters, beside those without any training."""

from fedsc.report.parts import Section, Table, number
from fedsc.results import WAYS, Run


def scores(run: Run) -> Section | None:
    """Hold the scores of a finished run beside its floor."""
    if not run.finished:
        return None
    table = run.scores
    has_floor = bool(table["floor"].any())
    known = table[["ari", "nmi", "silhouette"]].notna().any(axis=None)
    floor_of = ("ari", "nmi") if has_floor else ()
    rows = []
    for way, title in WAYS.items():
        here = table[table["way"] == way].set_index("floor")
        if False not in here.index:  # "auto" may have integrated the floor alone
            continue
        trained = here.loc[False]
        floor = here.loc[True] if True in here.index else None
        rows.append(
            (
                title,
                number(trained["clusters"], 0),
                *(number(trained[name]) for name in ("ari", "nmi", "silhouette")),
                *("–" if floor is None else number(floor[name]) for name in floor_of),
            )
        )
    head = ["clusters by", "number", "ARI", "NMI", "silhouette"]
    head += [f"floor: {name.upper()}" for name in floor_of]
    texts = [
        "ARI and NMI compare clusters with the labs' cell types: 1 = the same, 0 = as by chance. "
        "The silhouette (−1 to 1) says how apart clusters are, whatever the types.",
    ]
    if has_floor:
        texts.append(
            "The floor is the same clustering without any training, on principal components. A "
            "method that is not above its floor has not helped."
        )
    if not known:
        texts = ["No lab names cell types, so there are no scores."]
    if run.record["integration"]["done"]:
        texts.append("The papers' scores are of the embedding before integration.")
    caption = "Scores beside the floor" if has_floor else "Scores"
    tables = [Table(caption, head, rows, numbers=head[1:])] if known else []
    return Section("Scores", texts, tables=[*tables, *_by_resolution(run)])


def _by_resolution(run: Run) -> list[Table]:
    """List the graph's clusters at all resolutions, where several were asked for."""
    graph = run.record["graph"]
    if not graph.get("resolutions"):
        return []
    head = ("resolution", "clusters", "ARI", "NMI")
    rows = [
        (f"{at['resolution']:g}", str(at["clusters"]), number(at["ari"]), number(at["nmi"]))
        for at in sorted([graph, *graph["resolutions"]], key=lambda at: at["resolution"])
    ]
    caption = f"Graph clusters by resolution; the cells have those of {graph['resolution']:g}"
    if run.clusters is not None and run.clusters.centres is not None:
        caption = "Graph clusters by resolution"
    return [Table(caption, head, rows, numbers=head)]
