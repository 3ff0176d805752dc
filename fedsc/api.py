"""``fedsc.run``: a whole run from a notebook, in this process."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fedsc.cli.progress import RunProgress
from fedsc.config import Config
from fedsc.data.registry import resolve
from fedsc.errors import ConfigError
from fedsc.names import check_name
from fedsc.results import Run

if TYPE_CHECKING:
    import anndata

    Cells: TypeAlias = anndata.AnnData | str | Path


def run(
    data: "Cells | Mapping[str, Cells] | Sequence[Cells]",
    *,
    batch_key: str = "",
    label_key: str = "",
    layer: str = "",
    symbols: str = "",
    method: str = "fedsc",
    integrate: Literal["none", "harmony", "auto"] = "none",
    resolution: float | str = "0.4",
    clusters: int = 0,
    n_genes: int = 0,
    genes: Literal["intersection", "union"] = "intersection",
    rounds: int = 300,
    seed: int = 0,
    output: str | Path = "runs",
    run_name: str = "",
    verbose: bool = False,
    **options: Any,
) -> Run:
    """Cluster the cells of several labs together, as ``fedsc run``.

    Parameters
    ----------
    data
        The labs: AnnData or paths, by name or in a row (then they are ``lab-0``, …); or a folder
        with an ``.h5ad`` a lab; or one AnnData, file or known set that is split into labs.
    batch_key
        Of one AnnData or file: column of ``obs`` that names the lab (``partition = "column"``). Of
        several: column with batches within each lab, for Harmony.
    label_key
        Column of ``obs`` with cell types, for scores and clusters' names.
    layer
        ``""`` for ``X``, ``"raw"`` for ``.raw``, else a layer's name.
    symbols
        Column of ``var`` that names the genes; ``""`` = they have the names of ``var``.
    method
        ``"fedpca"`` trains nothing and takes seconds; others: ``fedsc methods``.
    integrate
        Harmony over labs of different techniques.
    resolution
        Of the graph's clusters: the higher, the more.
    clusters
        k of k-means; 0 = as many as there are cell types.
    n_genes
        Highly variable genes; 0 = the method's own number.
    genes
        Genes that all labs have measured, or any.
    rounds
        Of training.
    seed
        Moves split, weights and masks.
    output
        Folder in which the run folder is made.
    run_name
        Of the run folder; ``""`` = time, method, set and seed.
    verbose
        Whether to show the run's log and progress.
    **options
        Any other option of ``fedsc options``, with underscores.

    Returns
    -------
    Run
        Its folder holds everything; ``run.labs["A"]`` are a lab's cells with the results.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.
    DataError
        If cells cannot be used.
    RunError
        If the run cannot go on.
    """
    from server_app.run_folder import new_name
    from simulations.inprocess import run_inprocess, silence_flower

    given = {
        "label_key": label_key,
        "layer": layer,
        "symbols": symbols,
        "method": method,
        "integrate": integrate,
        "resolution": resolution,
        "clusters": clusters,
        "n_genes": n_genes,
        "genes": genes,
        "rounds": rounds,
        "seed": seed,
        "output": str(Path(output).resolve()),
        "run_name": run_name,
        **options,
    }
    with tempfile.TemporaryDirectory(prefix="fedsc-") as scratch:
        dataset, several = _dataset(data, Path(scratch))
        if batch_key:
            given |= {"batch_key": batch_key} if several else _by_column(batch_key)
        config = Config.of(dataset=dataset, **given)
        source = resolve(dataset)
        by_type = not several and config.split.scheme in ("subtypes", "dirichlet")
        no_types = source.path.suffix == ".h5ad" and not (label_key or source.label_key)
        if by_type and no_types:  # of other formats the file says
            raise ConfigError(
                "data: one set of cells is split into labs by cell type; give label_key=, the "
                "column of obs with cell types, or batch_key=, the column that names the labs, or "
                'partition="iid"'
            )
        known = source.subtypes_per_lab
        if known is not None and "subtypes_per_lab" not in options:
            config = config.replace(subtypes_per_lab=known)
        config = config.replace(run_name=run_name or new_name(config))
        folder = Path(config.run.output) / config.run.name
        silence_flower()
        if verbose:
            from rich.console import Console

            with RunProgress(folder, config.training.rounds, Console()):
                run_inprocess(config)
        else:
            run_inprocess(config)
    return Run(folder)


def _by_column(column: str) -> dict[str, str]:
    return {"partition": "column", "partition_key": column}


def _dataset(
    data: "Cells | Mapping[str, Cells] | Sequence[Cells]", scratch: Path
) -> tuple[str, bool]:
    """Put the data where the engine finds them; say whether each lab has its own.

    Raises
    ------
    ConfigError
        If there are no labs, or a name is none.
    """
    from partitioning.simulation import holds_labs

    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        return (str(path.resolve()) if path.exists() else str(data)), holds_labs(path)
    labs: dict[str, Cells]
    if isinstance(data, Mapping):
        labs = dict(data)
    elif isinstance(data, Sequence):
        labs = {f"lab-{i}": cells for i, cells in enumerate(data)}
    else:
        file = scratch / "data.h5ad"
        _write(data, file)
        return str(file), False
    if not labs:
        raise ConfigError("data: there are no labs in it")
    folder = scratch / "data"
    folder.mkdir()
    for lab, cells in labs.items():
        file = folder / f"{check_name(lab, 'data: lab')}.h5ad"
        if isinstance(cells, str | Path):
            path = Path(cells).expanduser().resolve()
            if path.suffix != ".h5ad" or not path.is_file():
                raise ConfigError(f"data: lab {lab}: {cells} is no .h5ad file")
            file.symlink_to(path)
        else:
            _write(cells, file)
    return str(folder), True


def _write(cells: "anndata.AnnData", file: Path) -> None:
    """Write cells and leave them as they are: AnnData turns columns of text into categories."""
    cells.to_memory().write_h5ad(file)  # shares the arrays, but not the tables
