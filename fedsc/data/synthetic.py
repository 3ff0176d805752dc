"""Synthetic counts with known types, for tests, tutorials and speed: gamma-Poisson cells.

The model is that of Splatter (Zappia, Phipson & Oshlack 2017), kept to what clustering and
federation see: types that differ in marker genes, library sizes, lost counts, and labs that differ
in how they measure every gene. Cells are drawn in groups of a fixed size, each from its own
generator, so a file can be written piece by piece and has the same values however it is cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsc.errors import ConfigError
from fedsc.files import replacing
from fedsc.rng import numpy_generator

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

GROUP = 256
"""Cells that share a generator. Changing it changes every set."""


@dataclass(frozen=True)
class Biology:
    """How the counts come about; the defaults look like a shallow 10x run.

    Attributes
    ----------
    markers
        Marker genes per type; no gene marks two types.
    fold
        How many times more a marker is expressed in its type.
    library
        Median counts per cell before losses.
    library_spread
        Standard deviation of the log library size.
    dispersion
        φ of the gamma: a count of mean m has variance m + φ·m² (before losses).
    dropout
        Probability that a count is lost as a whole.
    batch
        Standard deviation of the log factor between a lab's and the common expression of a gene.
    """

    markers: int = 20
    fold: float = 8.0
    library: float = 1000.0
    library_spread: float = 0.3
    dispersion: float = 0.3
    dropout: float = 0.1
    batch: float = 0.1


@dataclass(frozen=True)
class Truth:
    """What the counts are drawn from.

    Attributes
    ----------
    profiles
        Share of every gene in a cell's counts, per lab and type, float32 (labs, types, genes).
    marks
        Type each gene marks, or -1, int64 (genes,).
    type_of_cell, lab_of_cell
        int64 (cells,).
    library
        Expected counts of every cell before losses, float64 (cells,).
    seed, biology
        As given.
    """

    profiles: np.ndarray
    marks: np.ndarray
    type_of_cell: np.ndarray
    lab_of_cell: np.ndarray
    library: np.ndarray
    seed: int
    biology: Biology


def draw_truth(
    cells: int, genes: int, types: int, labs: int, seed: int, biology: Biology = Biology()
) -> Truth:
    """Draw everything but the counts.

    Labs have equal numbers of cells (to one); types have uneven shares, the same in every lab up
    to chance, and at least one cell each.

    Raises
    ------
    ConfigError
        If a number is out of range, or the types have no room for their markers.
    """
    _check(cells, genes, types, labs, biology)
    rng = numpy_generator(seed, "synthetic", "genes")
    marks = np.full(genes, -1, dtype=np.int64)
    chosen = rng.permutation(genes)[: types * biology.markers]
    marks[chosen] = np.arange(len(chosen)) // max(biology.markers, 1)
    # Splatter's default shape: most genes are expressed weakly, some strongly.
    common = rng.gamma(0.6, size=genes) + 1e-3
    by_type = common * np.where(marks == np.arange(types)[:, None], biology.fold, 1.0)
    by_lab = np.exp(rng.normal(0.0, biology.batch, size=(labs, genes)))
    profiles = (by_lab[:, None, :] * by_type).astype(np.float32)
    profiles /= profiles.sum(axis=2, keepdims=True)

    rng = numpy_generator(seed, "synthetic", "cells")
    shares = rng.dirichlet(np.full(types, 10.0))
    drawn = rng.choice(types, size=cells - types, p=shares)
    type_of_cell = rng.permutation(np.concatenate([np.arange(types), drawn]))
    lab_of_cell = rng.permutation(np.arange(cells) % labs)
    library = biology.library * np.exp(rng.normal(0.0, biology.library_spread, size=cells))
    return Truth(profiles, marks, type_of_cell, lab_of_cell, library, seed, biology)


def draw_group(truth: Truth, group: int) -> "csr_matrix":
    """Draw the counts of one group of :data:`GROUP` cells (the last may be smaller).

    Parameters
    ----------
    truth
        From :func:`draw_truth`.
    group
        ``0 <= group < ceil(cells / GROUP)``.

    Returns
    -------
    csr_matrix
        float32 whole numbers, cells × genes.
    """
    from scipy.sparse import csr_matrix

    rng = numpy_generator(truth.seed, "synthetic", "counts", group)
    rows = slice(group * GROUP, (group + 1) * GROUP)
    rate = truth.profiles[truth.lab_of_cell[rows], truth.type_of_cell[rows]]
    rate *= truth.library[rows, None].astype(np.float32)
    phi = np.float32(truth.biology.dispersion)
    if phi > 0:
        rate *= rng.standard_gamma(1 / phi, size=rate.shape, dtype=np.float32) * phi
    counts = csr_matrix(rng.poisson(rate).astype(np.float32))
    counts.data[rng.random(counts.nnz) < truth.biology.dropout] = 0
    counts.eliminate_zeros()
    return counts


def synthesize(
    cells: int, genes: int, types: int, labs: int, seed: int, biology: Biology = Biology()
) -> "anndata.AnnData":
    """Make a set in memory.

    Parameters
    ----------
    cells, genes, types, labs
        How many; at least one cell per type and per lab, and ``biology.markers`` genes per type.
    seed
        Moves everything.
    biology
        How the counts come about.

    Returns
    -------
    anndata.AnnData
        Counts in ``X`` (float32 CSR), ``obs["cell_type"]``, ``obs["lab"]``, ``var["marker_of"]``
        (``""`` = of no type).
    """
    import anndata
    from scipy.sparse import vstack

    truth = draw_truth(cells, genes, types, labs, seed, biology)
    obs, var = _annotation(truth)
    matrix = vstack([draw_group(truth, group) for group in range(-(-cells // GROUP))], format="csr")
    return anndata.AnnData(matrix, obs, var)


def write_synthetic(
    path: Path,
    cells: int,
    genes: int,
    types: int,
    labs: int,
    seed: int,
    biology: Biology = Biology(),
    *,
    block: int = 4096,
    written: Callable[[int], None] = lambda cells: None,
) -> None:
    """Write the set :func:`synthesize` makes as an ``.h5ad``, never holding it in memory.

    At work are the dense counts of :data:`GROUP` cells, the sparse counts of ``block`` cells and
    a few numbers per cell. The file appears under its name when it is complete.

    Parameters
    ----------
    path
        Where to; replaced if it exists.
    cells, genes, types, labs, seed, biology
        As for :func:`synthesize`.
    block
        Cells written at a time; has no influence on the content.
    written
        Called after every block with the cells written so far.

    Raises
    ------
    ConfigError
        If a number makes no set.
    RunError
        If the file cannot be written.
    """
    import anndata
    import h5py
    from anndata.io import sparse_dataset, write_elem

    from fedsc.data.annotated import pack, reserve

    truth = draw_truth(cells, genes, types, labs, seed, biology)
    obs, var = _annotation(truth)
    with replacing(path) as partial:
        partial.write_bytes(pack(anndata.AnnData(obs=obs, var=var)))
        start = 0
        for rows in _blocks(truth, block):
            # HDF5 dies on a full disk, so it gets its room before it opens the file.
            reserve(
                partial, 2 * sum(part.nbytes for part in (rows.data, rows.indices, rows.indptr))
            )
            with h5py.File(partial, "r+") as file:
                if start == 0:
                    # The pointers of a million cells pass 2³¹ non-zeros.
                    options = {"indptr_dtype": np.int64, "compression": "gzip"}
                    options |= {"compression_opts": 1, "shuffle": True}
                    write_elem(file, "X", rows, dataset_kwargs=options)
                else:
                    sparse_dataset(file["X"]).append(rows)
            start += rows.shape[0]
            written(start)


def _blocks(truth: Truth, block: int) -> "Iterator[csr_matrix]":
    """Draw group after group and cut the stream of cells into blocks."""
    from scipy.sparse import vstack

    held: list[csr_matrix] = []
    for group in range(-(-len(truth.library) // GROUP)):
        held.append(draw_group(truth, group))
        while sum(part.shape[0] for part in held) >= block:
            joined = vstack(held, format="csr")
            yield joined[:block]
            held = [joined[block:]] if joined.shape[0] > block else []
    if held:
        yield vstack(held, format="csr")


def _annotation(truth: Truth) -> "tuple[pd.DataFrame, pd.DataFrame]":
    import pandas as pd

    labs, types, genes = truth.profiles.shape
    cells = len(truth.library)
    type_names, lab_names = _names("type-", types), _names("lab-", labs)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(truth.type_of_cell, type_names),
            "lab": pd.Categorical.from_codes(truth.lab_of_cell, lab_names),
        },
        index=_names("cell-", cells),
    )
    marker_of = pd.Categorical.from_codes(truth.marks + 1, ["", *type_names])
    return obs, pd.DataFrame({"marker_of": marker_of}, index=_names("gene-", genes))


def _names(prefix: str, count: int) -> list[str]:
    width = len(str(count - 1))
    return [f"{prefix}{number:0{width}d}" for number in range(count)]


def _check(cells: int, genes: int, types: int, labs: int, biology: Biology) -> None:
    """Raise on the first number that makes no set."""
    for name, value in {"cells": cells, "genes": genes, "types": types, "labs": labs}.items():
        if value < 1:
            raise ConfigError(f"{name} = {value}: should be at least 1")
    if cells < max(types, labs):
        raise ConfigError(f"cells = {cells}: too few for types = {types} and labs = {labs}")
    if types * biology.markers > genes:
        raise ConfigError(
            f"genes = {genes}: types = {types} with markers = {biology.markers} each need "
            f"{types * biology.markers} genes; raise genes or lower markers"
        )
    for name, least in {"markers": 0, "library_spread": 0, "dispersion": 0, "batch": 0}.items():
        if not getattr(biology, name) >= least:
            raise ConfigError(f"{name} = {getattr(biology, name)}: should not be negative")
    for name in ("fold", "library"):
        if not getattr(biology, name) > 0:
            raise ConfigError(f"{name} = {getattr(biology, name)}: should be above 0")
    if not 0 <= biology.dropout < 1:
        raise ConfigError(f"dropout = {biology.dropout}: should be from 0 to below 1")
