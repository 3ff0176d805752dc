"""``report.html``: a run for a person who was not there, from its folder alone."""

from pathlib import Path

import fedsc
from fedsc.files import replace
from fedsc.methods import METHODS
from fedsc.report.clusters import cluster_map, clusters
from fedsc.report.composition import composition
from fedsc.report.cost import cost
from fedsc.report.genes import genes, quality
from fedsc.report.integration import integration
from fedsc.report.page import render
from fedsc.report.repetition import FROM_A_DEPLOYMENT, repetition, resumption
from fedsc.report.scores import scores
from fedsc.report.training import training
from fedsc.report.warnings import warnings
from fedsc.results import Run

REPORT = "report.html"


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
        clusters(run),
        cluster_map(run),
        composition(run),
        integration(run),
        scores(run),
        training(run),
        warnings(run),
        quality(run),
        genes(run),
        cost(run),
        repetition(run),
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
        lead = [f"This run of {name} has not come to its end, so there are no scores yet."]
        if why := run.failure:
            lead.append(f"It stopped because of an error: {why}")
            lead.append("With the same options it may stop there again.")
        lead.append(f"It can go on, also with some other options: {resumption(run)}")
        return [*lead, FROM_A_DEPLOYMENT] if run.of_real_labs else lead
    labs, graph = record.get("labs") or {}, record["graph"]
    cells = sum(about["cells"] for about in labs.values())
    untrained = name in METHODS and not METHODS[name].objective
    rounds = "without training" if untrained else f"in {options['rounds']} rounds"
    one = f"{name} put {cells:,} cells of {len(labs)} labs into {_count(run)} clusters, {rounds}."
    ari, floor = graph.get("ari"), ((record.get("floor") or {}).get("graph") or {}).get("ari")
    if ari is None:
        return [one, "No lab names cell types, so nothing says how right the clusters are."]
    two = f"Graph clusters agree with the labs' cell types with ARI {ari:.2f}"
    if floor is None:
        return [one, f"{two} (1 = the same, 0 = as by chance)."]
    helped = "has helped" if run.training_helped("graph") else "has not helped"
    return [one, f"{two}, without training with {floor:.2f}: training {helped}."]


def _count(run: Run) -> int:
    return run.record["graph"]["clusters"] if run.clusters is None else run.clusters.k
