"""The end of a run at a real lab: a copy of its own file with embedding and clusters."""

from pathlib import Path
from typing import Any

import numpy as np

from client_app.labs import Lab, LabFile
from client_app.state import load_embedding
from fedsc.data.annotated import add_clusters, write_annotated
from fedsc.errors import ConfigError
from fedsc.federated.kmeans import assign
from fedsc.files import make_folder


def write_results(
    lab: Lab, folder: Path, centres: np.ndarray | None, about: dict[str, Any]
) -> Path:
    """Write ``NAME.fedsc.h5ad``, replaced whole or not at all; the lab's file is only read.

    Parameters
    ----------
    lab
        A real lab whose cells were embedded in this run.
    folder
        Its state of the run; the copy goes there unless the node names an ``output`` folder.
    centres
        Of the pool's clusters, float64 (k, d); ``None`` where there are none.
    about
        What has to be known to use the results, for ``uns["fedsc"]``.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ConfigError
        If the lab is simulated, or the copy would take the place of the lab's file.
    RunError
        If the cells were not embedded, or the copy cannot be written.
    """
    if not isinstance(lab.source, LabFile):
        raise ConfigError(f"lab {lab.name} is simulated and has no file of its own")
    file = lab.source.path
    embedding = load_embedding(folder)
    clusters = None if centres is None else assign(centres, embedding)
    target = make_folder(folder if lab.output is None else lab.output)
    copy = target / f"{Path(file.name.removesuffix('.gz')).stem}.fedsc.h5ad"
    if copy.exists() and copy.samefile(file):
        raise ConfigError(f"{copy.name} is the lab's file itself: name another output folder")
    k = 0 if centres is None else len(centres)
    own = {"file": file.name, "layer": lab.source.layer, **about}
    write_annotated(
        file, copy, lab.expression, lambda cells: add_clusters(cells, embedding, clusters, k, own)
    )
    return copy
