"""How much memory and time a lab needs to answer for a file that stays on disk.

``python -m simulations.benchmarks.statistics_memory --cells 200000 --genes 20000`` writes sparse
synthetic files of growing density, learns the preprocessing from each without loading it, in a
process of its own, and prints that process's peak memory. Time should grow with the non-zeros,
memory should not.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from fedsc.data.reading.backed import Backed
from fedsc.rng import numpy_generator

_ROWS = 2000
"""Cells written at a time."""


def write_synthetic(path: Path, cells: int, genes: int, per_cell: int, seed: int) -> None:
    """Write an ``.h5ad`` of geometric counts block by block.

    Parameters
    ----------
    path
        File to write.
    cells, genes
        Its shape.
    per_cell
        Counts drawn per cell; those that fall on one gene are one non-zero.
    seed
        Moves the draws.
    """
    import anndata
    import h5py
    import pandas as pd

    rng = numpy_generator(seed, "statistics-memory", per_cell)
    abundance = rng.lognormal(0, 1.5, size=genes).cumsum()
    shell = anndata.AnnData(
        obs=pd.DataFrame(index=[f"cell-{i}" for i in range(cells)]),
        var=pd.DataFrame(index=[f"gene-{i}-x" for i in range(genes)]),
    )
    shell.write_h5ad(path)
    ends = [np.zeros(1, dtype=np.int64)]
    with h5py.File(path, "a") as file:
        matrix = file.create_group("X")
        matrix.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (cells, genes)}
        )
        chunks = {"shape": (0,), "maxshape": (None,), "chunks": (2**18,)}
        data = matrix.create_dataset("data", dtype=np.float32, **chunks)
        indices = matrix.create_dataset("indices", dtype=np.int32, **chunks)
        for start in range(0, cells, _ROWS):
            block = _draw(min(_ROWS, cells - start), abundance, per_cell, rng)
            written = len(data)
            for dataset, values in ((data, block.data), (indices, block.indices)):
                dataset.resize((written + len(values),))
                dataset[written:] = values
            ends.append(written + block.indptr[1:].astype(np.int64))
        matrix.create_dataset("indptr", data=np.concatenate(ends))


def opened(path: Path) -> Backed:
    """Leave the cells of a written file on disk."""
    import h5py

    with h5py.File(path) as file:
        genes, ends = file["var/_index"].asstr()[:], file["X/indptr"]
        return Backed(path, "", genes, len(ends) - 1, int(ends[-1]), "counts")


def measure(path: Path) -> dict[str, float]:
    """Learn the preprocessing from a file on disk, and weigh this process."""
    from fedsc.data.aligned import align
    from fedsc.data.genes import agree
    from fedsc.federated.answers import answer
    from fedsc.federated.preprocessing import learn_preprocessing
    from fedsc.federated.query import ask_locally
    from fedsc.options import DataOptions

    start, cpu_start = time.perf_counter(), time.process_time()
    source = opened(path)
    vocabulary = agree({"lab": source.genes}, "intersection", None, 1)
    ask = ask_locally([align(source, vocabulary)], answer)
    learnt = learn_preprocessing(ask, vocabulary, "counts", DataOptions())
    return {
        "nonzeros": source.nonzeros,
        "genes chosen": len(learnt.genes),
        "seconds": time.perf_counter() - start,
        "cpu seconds": time.process_time() - cpu_start,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Write, measure and print, one line per density."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--per-cell", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where files are written for a while")
    parser.add_argument("--file", type=Path, help="measure this file in this process, as JSON")
    options = parser.parse_args()
    if options.file:
        print(json.dumps(measure(options.file)))  # noqa: T201
        return
    print("   nonzeros   file GB   seconds   CPU s   CPU s per 1e8   peak GB")  # noqa: T201
    for per_cell in options.per_cell:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "cells.h5ad"
            # A child's peak starts at its parent's, so this process must stay small: a child
            # writes the file, another measures.
            writing = multiprocessing.get_context("spawn").Process(
                target=write_synthetic,
                args=(path, options.cells, options.genes, per_cell, options.seed),
            )
            writing.start()
            writing.join()
            child = [sys.executable, "-m", "simulations.benchmarks.statistics_memory"]
            reply = subprocess.run(
                [*child, "--file", str(path)], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(reply.stdout)
            print(  # noqa: T201
                f"{found['nonzeros']:11d} {path.stat().st_size / 1e9:9.2f} "
                f"{found['seconds']:9.1f} {found['cpu seconds']:7.1f} "
                f"{found['cpu seconds'] / found['nonzeros'] * 1e8:15.1f} "
                f"{found['peak GB']:9.2f}",
                flush=True,
            )


def _draw(cells: int, abundance: np.ndarray, per_cell: int, rng: np.random.Generator) -> csr_matrix:
    genes = np.searchsorted(abundance, rng.random((cells, per_cell)) * abundance[-1])
    counts = rng.geometric(0.5, size=genes.size).astype(np.float32)
    rows = np.arange(0, genes.size + 1, per_cell)
    block = csr_matrix((counts, genes.ravel(), rows), shape=(cells, len(abundance)))
    block.sum_duplicates()
    return block


if __name__ == "__main__":
    main()
