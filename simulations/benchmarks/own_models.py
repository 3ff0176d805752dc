"""What the pull leaves each lab: a model of its own, beside the global one.

``python -m simulations.benchmarks.own_models RUN…`` reads finished run folders of simulations. Per
run it gives how far the labs' last models lie from the global one and from each other, and how well
each lab's own cells cluster when its own model embeds them, and when the global one does. k-means
is told how many types the lab has. A lab of one type has no score.

Cells of all labs embedded each by its own lab's model are scored together too (``pooled``). Where
labs are made from labels that score leaks them: the lab a cell lies in tells its types.
"""

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fedsc.config import Config
from fedsc.data.preprocess import transform
from fedsc.errors import DataError
from fedsc.evaluate import kmeans, scores
from fedsc.federated.pull import divergence
from fedsc.methods import method_of
from fedsc.model import load_model
from fedsc.run_files import CONFIG
from fedsc.training import embed_cells
from server_app.checkpoint import load_checkpoint
from simulations.bench.cell import labs_of_run

_SCORES = ("ari", "nmi")


def measure(folder: Path) -> dict[str, Any]:
    """Score the labs' last models and the global one.

    Parameters
    ----------
    folder
        Of a finished simulated run of a method that trains.

    Returns
    -------
    dict
        ``method``, ``pull``, ``partition``, ``dataset``, ``seed``; ``to_global`` and ``between``,
        mean distances (L2 norm of eq. (3)); ``own`` and ``global``, mean ARI and NMI of the labs'
        own cells; ``labs``, the same by lab; ``pooled``, ARI and NMI of all cells under either.

    Raises
    ------
    DataError
        If the run has no labels or no models.
    """
    config = Config.from_mapping(json.loads((folder / CONFIG).read_text()))
    state = load_checkpoint(folder / "checkpoint.safetensors", config.fingerprint())
    if state is None or not state.uploads:
        raise DataError(f"{folder}: holds no models of labs")
    preprocessing = load_model(folder).preprocessing
    labs = labs_of_run(config, folder)
    own, common, labels, by_lab = [], [], [], {}
    for lab, expression in sorted(labs.items()):
        if expression.labels is None:
            raise DataError(f"{folder}: its cells have no labels")
        cells = transform(expression, preprocessing, scale=config.data.scale)
        own.append(embed_cells(state.uploads[lab], cells))
        common.append(embed_cells(state.weights, cells))
        labels.append(expression.labels)
        by_lab[lab] = {
            "own": _agreement(own[-1], labels[-1], config.run.seed),
            "global": _agreement(common[-1], labels[-1], config.run.seed),
        }
    models = list(state.uploads.values())
    types = np.concatenate(labels)
    return {
        "method": config.method.name,
        "pull": method_of(config.method).pull,
        "partition": config.split.scheme,
        "dataset": config.data.dataset,
        "seed": config.run.seed,
        "rounds": state.round,
        "to_global": float(np.mean([divergence(state.weights, model) for model in models])),
        "between": _mean([divergence(one, other) for one, other in combinations(models, 2)]),
        **{
            which: {name: _mean([of[which][name] for of in by_lab.values()]) for name in _SCORES}
            for which in ("own", "global")
        },
        "labs": by_lab,
        "pooled": {
            "own": _agreement(np.concatenate(own), types, config.run.seed),
            "global": _agreement(np.concatenate(common), types, config.run.seed),
        },
    }


def _agreement(x: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float | None]:
    """Cluster with as many clusters as types and score against them."""
    k = len(np.unique(labels))
    if k < 2:
        return dict.fromkeys(_SCORES)
    found = scores(x, kmeans(x, k, seed), labels)
    return {name: found[name] for name in _SCORES}


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def main(folders: list[str]) -> None:
    """Measure and print, one line of JSON a run."""
    for folder in folders:
        print(json.dumps(measure(Path(folder))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
