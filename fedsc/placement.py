"""New cells in a finished run: its model's embedding, its clusters, their types, its map."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np

from fedsc.clusters import CLUSTERS, Clusters, load_clusters
from fedsc.data.additions import Annotation, additions_of
from fedsc.data.coverage import blank_cells, coverage_warning
from fedsc.data.expression import Expression
from fedsc.data.genes import case_note
from fedsc.data.reading.backed import Backed
from fedsc.data.reading.how import AS_IT_IS, ReadAs
from fedsc.data.reading.in_memory import expression_of
from fedsc.errors import DataError
from fedsc.federated.correction import BatchedCells, correct
from fedsc.federated.harmony import HARMONY, Harmony, load_harmony
from fedsc.federated.harmony_lab import load_correction
from fedsc.model import load_model, load_private_norm
from fedsc.run_files import QUALITY
from fedsc.threads import one_blas_thread

if TYPE_CHECKING:
    import anndata


@dataclass(frozen=True)
class Placement:
    """What a run says of new cells.

    Attributes
    ----------
    annotation
        Results, one row a cell.
    said
        How it was done: coverage, standardisation, integration.
    warnings
        What has to be known to trust the results.
    """

    annotation: Annotation
    said: tuple[str, ...]
    warnings: tuple[str, ...]


@one_blas_thread()
def place(
    folder: Path,
    cells: Expression | Backed,
    *,
    resolution: float | None = None,
    seed: int = 0,
    how: ReadAs = AS_IT_IS,
    private: Path | None = None,
    integration: Path | None = None,
    batch_key: str = "",
    allow_low_coverage: bool = False,
) -> Placement:
    """Embed new cells with a run's model and give them its clusters, types and map.

    Parameters
    ----------
    folder
        Of a finished run.
    cells
        In memory, or on disk: these are read a block at a time.
    resolution
        Make Leiden clusters of this resolution; ``None`` = the run's clusters.
    seed
        Of Leiden.
    how
        Results say the cells are read, so that they can be joined to others.
    private
        One lab's private state, for a model trained with ``local-norm``.
    integration
        One lab's ``integration.safetensors``: the cells are of that lab. Without it they are of a
        new lab, if the run integrated its labs.
    batch_key
        Column of ``obs`` with the batch of every cell, for ``integration`` of a lab with batches.
    allow_low_coverage
        Go on even if the cells have under 20 % of the model's genes.

    Raises
    ------
    DataError
        If the folder holds no model, or not all that belongs to it, the cells do not fit it, or
        too few of its genes were measured.
    """
    trained = load_model(folder)
    found, harmony = load_clusters(folder, trained), load_harmony(folder, trained)
    _refuse_incomplete(folder, found, harmony, resolution)
    norm = None if private is None else load_private_norm(private, trained)
    prepared = trained.prepare(cells)
    covered = trained.coverage(prepared)
    hint = None
    if covered.measured < covered.genes:
        hint = case_note({"the file": cells.genes, "the model": trained.preprocessing.genes})
    low = coverage_warning(covered, hint, allow_low=allow_low_coverage)
    blank = blank_cells(prepared.n_blank) if prepared.n_blank else None
    warnings = tuple(filter(None, (low, blank)))
    embedding = trained.embed(prepared, norm)
    embedding, integrated = _integrated(embedding, cells, harmony, integration, batch_key)
    about: dict[str, Any] = {
        **how.told(),
        "run": str(folder),
        "model": trained.digest,
        "method": trained.method,
        "scale": trained.scale,
        "genes": covered.genes,
        "genes-measured": covered.measured,
        "weight-measured": covered.weight,
    }
    if warnings:
        about["warnings"] = "; ".join(warnings)
    if integrated:
        about["integrated"] = integrated
    if found is not None and resolution is None:
        clusters = found.assign(embedding)
        about["clusters"] = f"the run's {found.k} clusters"
        annotation = Annotation(
            embedding,
            clusters,
            found.k,
            about,
            found.types,
            found.shares,
            found.distances(embedding, clusters),
            found.place(embedding),
        )
    else:
        from fedsc.leiden import leiden

        assert resolution is not None  # or the folder was refused
        clusters = leiden(embedding, resolution, seed)
        about |= {"clusters": "Leiden", "resolution": resolution, "seed": seed}
        annotation = Annotation(embedding, clusters, int(clusters.max()) + 1, about)
    said = [f"measured: {covered}"]
    if trained.scale == "lab":
        said.append("standardised within this file, as the run did within each lab")
    if integrated:
        said.append(f"integrated {integrated}")
    if (folder / QUALITY).exists():
        said.append("the run controlled quality; these cells are not judged")
    about["said"] = "; ".join(said)
    return Placement(annotation, tuple(said), warnings)


def embed(
    adata: "anndata.AnnData",
    run: str | PathLike[str],
    *,
    layer: str = "",
    symbols: str = "",
    make_unique: bool = False,
    fold_case: bool = False,
    resolution: float | None = None,
    seed: int = 0,
    private: str | PathLike[str] | None = None,
    integration: str | PathLike[str] | None = None,
    batch_key: str = "",
    allow_low_coverage: bool = False,
    copy: bool = False,
) -> "anndata.AnnData | None":
    """Embed cells with the model of a run and give them its clusters, types and map.

    Adds ``obsm["X_fedsc"]``, ``obs["fedsc_cluster"]`` and ``uns["fedsc"]``; of the run's clusters
    also ``obs["fedsc_distance"]``, ``obsm["X_fedsc_umap"]`` if the run drew a map and, where some
    lab was annotated, ``obs["fedsc_type"]`` and ``obs["fedsc_type_share"]``, the
    share of the cluster's annotated cells that have its commonest type. A type is ``"unknown"``
    where that share is below the run's ``type-threshold`` or fewer than 10 cells are annotated;
    the share is then of a type that is not named.

    Parameters
    ----------
    adata
        Cells; they get the results.
    run
        A run (``fedsc.load``), or its folder.
    layer
        ``""`` for ``X``, ``"raw"`` for ``adata.raw``, else a layer's name.
    symbols
        Column of ``var`` that names the genes; ``""`` = they have the names of ``var``.
    make_unique
        Number names of genes and cells that repeat.
    fold_case
        Spell gene names in capitals, as a run with ``fold_case`` did.
    resolution
        Make Leiden clusters of this resolution, not the run's: they have no types and no map.
    seed
        Of Leiden.
    private, integration, batch_key
        Of the lab the cells are from, if it was one of the run's: its private state, for a model
        trained with ``local_norm``; its ``integration.safetensors`` after a run with Harmony
        (without it the cells are a new lab's); and the column of ``obs`` with its batches.
    allow_low_coverage
        Go on even if the cells have under 20 % of the model's genes.
    copy
        Give a copy with the results and leave ``adata`` as it is.

    Returns
    -------
    AnnData or None
        The copy, if one was wanted.

    Raises
    ------
    DataError
        If the folder is none of a run, or the cells do not fit its model.

    Warns
    -----
    UserWarning
        If the cells have under 80 % of the model's genes, or some cells have none of them. How they
        were placed is in ``uns["fedsc"]["said"]``.
    """
    how = ReadAs(layer, "", symbols, make_unique, fold_case)
    placed = place(
        Path(run),
        expression_of(adata, how),
        resolution=resolution,
        seed=seed,
        how=how,
        private=None if private is None else Path(private),
        integration=None if integration is None else Path(integration),
        batch_key=batch_key,
        allow_low_coverage=allow_low_coverage,
    )
    for warning in placed.warnings:
        warn(warning, stacklevel=2)
    target = adata.copy() if copy else adata
    additions_of(placed.annotation).add_to(target)
    return target if copy else None


def _refuse_incomplete(
    folder: Path, clusters: Clusters | None, harmony: Harmony | None, resolution: float | None
) -> None:
    """Refuse a folder that lacks what its cells' clusters depend on."""
    if clusters is None:
        if resolution is None:
            raise DataError(
                f"{folder / CLUSTERS} is missing: the run has not come to its clusters yet, or the "
                "folder was copied in part; give a resolution, and Leiden clusters of these cells "
                "alone are made"
            )
        return
    if clusters.integration != (harmony.name if harmony else ""):
        wrong = "is not that of the clusters beside it" if harmony else "is missing"
        raise DataError(
            f"{folder / HARMONY} {wrong}, so cells would not be moved as those of the labs were: "
            "copy the whole folder of the run, or resume it if an earlier version made it"
        )


def _integrated(
    embedding: np.ndarray,
    cells: Expression | Backed,
    harmony: Harmony | None,
    own: Path | None,
    batch_key: str,
) -> tuple[np.ndarray, str]:
    """Move cells as the labs of the run were moved, if they were; say how, ``""`` if not."""
    if batch_key and own is None:
        raise DataError(f"--batch-key {batch_key}: goes with --integration")
    if harmony is None:
        if own is not None:
            raise DataError(f"--integration {own}: the run did not integrate its labs")
        return embedding, ""
    if own is None:
        fitted = harmony.correct_new_lab(embedding)
        return fitted, "as a new lab: its correction is fitted to the run's centres"
    correction, known = load_correction(own, harmony.name)
    batches = np.zeros(len(embedding), dtype=np.int64)
    if len(known) > 1:
        batches = _codes(cells, batch_key, known, own)
    moved = correct(BatchedCells(embedding, batches), correction)
    return moved, "as a file of the lab whose correction was given"


def _codes(cells: Expression | Backed, batch_key: str, known: list[str], own: Path) -> np.ndarray:
    """Number the batches of a file as its lab did."""
    if not isinstance(cells, Expression):
        raise DataError(
            f"--integration {own}: the lab has {len(known)} batches, and those of a file that does "
            "not fit in memory are not read; leave the option out, and it is of a new lab"
        )
    codes, names = cells.batches(batch_key)
    if not names:
        raise DataError(
            f"--integration {own}: the lab has {len(known)} batches ({', '.join(known)}); say with "
            "--batch-key which column names that of each cell, or leave the option out, and the "
            "file is of a new lab"
        )
    if new := sorted(set(names) - set(known)):
        raise DataError(
            f"--batch-key {batch_key}: the lab had no batch '{new[0]}'; it had {', '.join(known)}"
        )
    of_file = np.array([known.index(name) for name in names], dtype=np.int64)
    return np.asarray(of_file[codes])
