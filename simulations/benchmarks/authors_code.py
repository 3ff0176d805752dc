"""The authors' own code beside ours: the same cells, the same number of types, the same seeds.

``python -m simulations.benchmarks.authors_code contrastive-sc CLONE 10x_pbmc -o rows.csv`` runs
what lies in CLONE, a clone of the authors' repository, as their own commands do, on a CPU:

- contrastive-sc: ``ciortanmadalina/contrastive-sc``, ``train.preprocess`` and ``train.run``;
- scdeepcluster: ``ttgump/scDeepCluster_pytorch``, the steps of ``run_scDeepCluster.py``.

Their code is of older packages: ``scanpy.api``, ``numpy.int`` and ``torchvision`` (imported there,
never used) are put in place here. Nothing else of it is changed, and nothing of it is kept.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fedsc.data.expression import Expression
from fedsc.errors import DataError
from simulations.bench.cell import Cell, whole_set

Theirs = Callable[[np.ndarray, int], np.ndarray]
"""Cluster counts, float64 (cells, genes), into k clusters: int (cells,)."""


def _contrastive_sc(counts: np.ndarray, k: int) -> np.ndarray:
    import train  # type: ignore[import-not-found]

    cells = train.preprocess(counts)
    found = train.run(cells, k, "set", cluster_methods=["KMeans"], save_pred=True, use_cpu=True)
    return np.asarray(found["kmeans_pred"])


def _scdeepcluster(counts: np.ndarray, k: int) -> np.ndarray:
    import preprocess  # type: ignore[import-not-found]
    import scanpy
    from scDeepCluster import scDeepCluster  # type: ignore[import-not-found]

    cells = preprocess.read_dataset(scanpy.AnnData(counts), transpose=False, test_split=False)
    cells = preprocess.normalize(cells)
    size_factors = cells.obs["size_factors"].to_numpy()
    model = scDeepCluster(
        input_dim=cells.n_vars,
        z_dim=32,
        encodeLayer=[256, 64],
        decodeLayer=[64, 256],
        sigma=2.5,
        gamma=1.0,
        device="cpu",
    )
    model.pretrain_autoencoder(cells.X, cells.raw.X, size_factors, epochs=300, ae_save=False)
    with tempfile.TemporaryDirectory() as folder:
        clusters, *_ = model.fit(
            cells.X, cells.raw.X, size_factors, k, num_epochs=2000, tol=0.001, save_dir=folder
        )
    return np.asarray(clusters)


THEIRS: dict[str, Theirs] = {"contrastive-sc": _contrastive_sc, "scdeepcluster": _scdeepcluster}


def run_theirs(method: str, clone: Path, cells: Expression, seed: int) -> np.ndarray:
    """Cluster cells with the authors' code, on one CPU thread of this process.

    It changes this process for good (module path, torch's number type): use one of its own.

    Parameters
    ----------
    method
        A key of :data:`THEIRS`.
    clone
        Of the authors' repository.
    cells
        Counts, with labels: how many there are is told.
    seed
        For NumPy's and torch's global generators, which their code draws from.

    Returns
    -------
    np.ndarray
        int (cells,).
    """
    import scanpy
    import torch

    assert cells.labels is not None
    sys.path.insert(0, str(clone))
    sys.modules["scanpy.api"] = scanpy
    sys.modules["torchvision"] = ModuleType("torchvision")
    # Counts were integers, which the scanpy of then divided; today's wants fractions for that.
    vars(np)["int"] = np.float32
    torch.set_num_threads(1)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    counts = np.asarray(cells.matrix.todense(), dtype=np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        return THEIRS[method](counts, len(np.unique(cells.labels)))


def run_ours(method: str, cells: Expression, seed: int) -> np.ndarray:
    """Cluster the same cells with ``fedsc fit``'s method and its default preset."""
    from fedsc.baselines.fitting import fit
    from fedsc.baselines.method import Settings

    return fit(method, cells, Settings(seed=seed), "true").clusters


def measure(
    method: str, clone: Path, dataset: str, label_key: str, seed: int, whose: str
) -> dict[str, Any]:
    """Score one fit: ``method``, ``dataset``, ``seed``, ``code`` (theirs or ours), ARI and NMI.

    Raises
    ------
    DataError
        If cells have no labels.
    """
    cell = Cell(method=method, dataset=dataset, label_key=label_key, seed=seed, options={})
    cells = whole_set(cell)
    if cells.labels is None:
        raise DataError(f"{dataset}: no column of cell types is known; name it with --label-key")
    if whose == "theirs":
        clusters = run_theirs(method, clone, cells, seed)
    else:
        clusters = run_ours(method, cells, seed)
    return {
        "method": method,
        "dataset": dataset,
        "seed": seed,
        "code": whose,
        "ari": float(adjusted_rand_score(cells.labels, clusters)),
        "nmi": float(normalized_mutual_info_score(cells.labels, clusters)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Run both on every set and seed, each in a process of its own, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("method", choices=THEIRS)
    parser.add_argument("clone", type=Path, help="clone of the authors' repository")
    parser.add_argument("datasets", nargs="+", metavar="SET")
    parser.add_argument("--label-key", default="", help="column of cell types; default: the set's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV; rows are added")
    options = parser.parse_args(arguments)
    rows = pd.read_csv(options.output).to_dict("records") if options.output.exists() else []
    done = {(r["method"], r["dataset"], r["seed"], r["code"]) for r in rows}
    for dataset in options.datasets:
        for seed in range(options.seeds):
            for whose in ("theirs", "ours"):
                if (options.method, dataset, seed, whose) in done:
                    continue
                asked = options.method, options.clone.resolve(), dataset, options.label_key
                with get_context("spawn").Pool(1) as pool:
                    rows.append(pool.apply(measure, (*asked, seed, whose)))
                print(rows[-1], flush=True)  # noqa: T201
                pd.DataFrame(rows).to_csv(options.output, index=False)


if __name__ == "__main__":
    main()
