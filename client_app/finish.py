"""The end of a run at a real lab: a copy of its own file with clusters, types, markers and map."""

from pathlib import Path

import numpy as np

from client_app.labs import Lab, LabFile
from client_app.state import load_embedding
from client_app.subjects import embedding_of
from fedsc.data.annotated import Annotation, add_results, write_annotated
from fedsc.data.quality import reasons
from fedsc.errors import ConfigError
from fedsc.federated.marker_tables import scanpy_layout
from fedsc.files import make_folder
from protocol.finish import Results


def write_results(lab: Lab, folder: Path, results: Results) -> Path:
    """Write ``NAME.fedsc.h5ad``, replaced whole or not at all; the lab's file is only read.

    Parameters
    ----------
    lab
        A real lab whose cells were embedded in this run.
    folder
        Its state of the run; the copy goes there unless the node names an ``output`` folder.
    results
        What the server has told.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ConfigError
        If the lab is simulated, or the copy would take the place of the lab's file.
    RunError
        If the cells were not embedded, the lab's file has changed since, or the copy cannot be
        written.
    """
    if not isinstance(lab.source, LabFile):
        raise ConfigError(f"lab {lab.name} is simulated and has no file of its own")
    file = lab.source.path
    load_embedding(folder).of(lab.expression)
    x = embedding_of(folder, results.steps)
    target = make_folder(folder if lab.output is None else lab.output)
    copy = target / f"{Path(file.name.removesuffix('.gz')).stem}.fedsc.h5ad"
    if copy.exists() and copy.samefile(file):
        raise ConfigError(f"{copy.name} is the lab's file itself: name another output folder")
    annotation = Annotation(
        embedding=x,
        clusters=results.clusters.assign(x),
        k=results.clusters.k,
        about={"file": file.name, "layer": lab.source.layer, **results.about},
        types=results.clusters.types,
        shares=results.clusters.shares,
        places=results.clusters.place(x),
        markers=scanpy_layout(results.markers, _own_names(lab, results.vocabulary)),
        left_out=None if lab.cell_filter is None else reasons(lab.cell_filter.failing(lab.whole)),
    )
    write_annotated(file, copy, lab.whole, lambda cells: add_results(cells, annotation))
    return copy


def _own_names(lab: Lab, vocabulary: np.ndarray) -> np.ndarray:
    """Name the vocabulary's genes as the lab does, where it has measured them."""
    columns = lab.aligned(vocabulary).columns
    names = np.asarray(vocabulary, dtype=object).copy()
    here = columns >= 0
    names[columns[here]] = lab.expression.genes[here]
    return names
