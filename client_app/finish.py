"""The end of a run at a lab: a copy of its own file with clusters, types, markers and map."""

from logging import WARNING
from pathlib import Path

import numpy as np
from flwr.common import log

from client_app.labs import Lab, LabFile
from client_app.state import load_embedding
from client_app.subjects import embedding_of
from fedsc.data.additions import Annotation, additions_of
from fedsc.data.annotated import Origin, write_annotated
from fedsc.data.coverage import coverage_warning
from fedsc.data.quality import reasons
from fedsc.errors import ConfigError
from fedsc.federated.marker_tables import scanpy_layout
from fedsc.files import make_folder, replace
from fedsc.sent import read_sent
from fedsc.versions import versions
from protocol.finish import Results

_PACKAGES = ("torch", "numpy", "anndata", "flwr")


def write_results(lab: Lab, folder: Path, results: Results) -> Path:
    """Write the copy, replaced whole or not at all; the lab's file is only read.

    Parameters
    ----------
    lab
        Its cells were embedded in this run.
    folder
        Its state of the run. The copy of a real lab goes there unless the node names an ``output``
        folder, as ``NAME.fedsc.h5ad``; that of a simulated lab goes beside it, as ``LAB.h5ad``.
    results
        What the server has told.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ConfigError
        If the copy would take the place of the lab's file.
    RunError
        If the cells were not embedded, the lab's file has changed since, or the copy cannot be
        written.
    """
    kept = load_embedding(folder).of(lab.expression)
    x = embedding_of(folder, results.clusters.integration)
    origin, copy = _places(lab, folder)
    covered = kept.coverage
    warnings = [
        results.about.get("warnings"),
        # Too low a coverage to go on has been refused when the lab joined, or is allowed.
        coverage_warning(covered, allow_low=True),
    ]
    about = {
        **results.about,
        "lab": lab.name,
        "file": origin.path.name,
        **origin.how_of_copy.told(),
        "options": dict(results.options),
        "versions": versions(*_PACKAGES),
        "coverage": {**vars(covered), "share": covered.share},
        "warnings": "; ".join(filter(None, warnings)) or None,
    }
    clusters = results.clusters.assign(x)
    annotation = Annotation(
        embedding=x,
        clusters=clusters,
        k=results.clusters.k,
        about=about,
        types=results.clusters.types,
        shares=results.clusters.shares,
        distances=results.clusters.distances(x, clusters),
        places=results.clusters.place(x),
        markers=scanpy_layout(results.markers, _own_names(lab, results.vocabulary)),
        left_out=None if lab.cell_filter is None else reasons(lab.cell_filter.failing(lab.whole)),
    )
    write_annotated(origin, copy, lab.whole, additions_of(annotation))
    if isinstance(lab.source, LabFile):  # of a simulation the run's own report says it
        _write_report(copy.with_suffix(".html"), annotation, results.clusters.sizes, folder)
    return copy


def _write_report(path: Path, annotation: Annotation, sizes: np.ndarray, folder: Path) -> None:
    """Write the lab's own report; the copy is there, whatever becomes of a page about it."""
    from fedsc.report.lab import lab_report

    try:
        replace(path, lab_report(annotation, sizes, list(read_sent(folder))).encode())
    except Exception:
        log(WARNING, "the lab has its results, but no report of them", exc_info=True)


def _places(lab: Lab, folder: Path) -> tuple[Origin, Path]:
    """Give where a lab's cells are from, and where its copy goes."""
    if not isinstance(lab.source, LabFile):
        if lab.origin is None:
            raise ConfigError(f"nobody has said where the cells of lab {lab.name} are from")
        return lab.origin, make_folder(folder).parent / f"{lab.name}.h5ad"
    file = lab.source.path
    target = make_folder(folder if lab.output is None else lab.output)
    copy = target / f"{Path(file.name.removesuffix('.gz')).stem}.fedsc.h5ad"
    if copy.exists() and copy.samefile(file):
        raise ConfigError(
            f"{copy.name} is the lab's file itself: name another output folder",
            "the copy with the results is the lab's file itself: name another output folder",
        )
    return Origin(file, how=lab.source.how), copy


def _own_names(lab: Lab, vocabulary: np.ndarray) -> np.ndarray:
    """Name the vocabulary's genes as the lab's file does, where it has measured them."""
    columns = lab.aligned(vocabulary).columns
    cells = lab.expression
    names = np.asarray(vocabulary, dtype=object).copy()
    here = columns >= 0
    names[columns[here]] = (cells.genes if cells.columns is None else cells.columns)[here]
    return names
