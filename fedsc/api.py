"""``fedsc.run``: a whole run from a notebook, in this process."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from warnings import warn

import tomli_w

from fedsc.cli.progress import RunProgress
from fedsc.config import Config
from fedsc.data.labs_toml import LABS, told_by_labs
from fedsc.data.registry import resolve
from fedsc.errors import ConfigError, DataError, FedscError
from fedsc.names import check_name, safe_name
from fedsc.options import kebab
from fedsc.results import Run

if TYPE_CHECKING:
    import anndata

    Cells: TypeAlias = anndata.AnnData | str | Path

Named: TypeAlias = str | Mapping[str, str]
"""One name, or one for each lab; labs that a mapping leaves out have none."""


def run(
    data: "Cells | Mapping[str, Cells] | Sequence[Cells]",
    *,
    batch_key: Named = "",
    label_key: Named = "",
    layer: Named = "",
    symbols: Named = "",
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

    ``label_key``, ``batch_key``, ``layer`` and ``symbols`` are of all labs, or a mapping from labs
    to names: ``label_key={"A": "cell_type"}`` if no other lab is annotated. Of a lab that is a path
    ``labs.toml`` beside the file counts where a mapping says nothing.

    Parameters
    ----------
    data
        The labs: AnnData or paths, by name or in a row (then they are ``lab-0``, …); or a folder
        with a file a lab; or one AnnData, file or known set that is split into labs. A lab's path
        is that of an ``.h5ad``, ``.h5`` or ``.loom`` file or of a 10x folder.
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
        ``"fedpca"`` trains nothing and takes seconds to minutes; others: ``fedsc methods``.
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

    Warns
    -----
    UserWarning
        For each lab that was left out, and whatever else :attr:`Run.warnings` has.
    """
    from partitioning.simulation import with_own_k
    from server_app.run_folder import new_name
    from simulations.inprocess import forget, run_inprocess, silence_flower

    named = {
        "label_key": label_key,
        "batch_key": batch_key,
        "layer": layer,
        "symbols": symbols,
    }
    given = {
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
        dataset, several = _dataset(data, named, Path(scratch))
        common = {name: value for name, value in named.items() if isinstance(value, str)}
        if not several and (column := common.pop("batch_key", "")):
            common |= {"partition": "column", "partition_key": column}
        config = Config.of(dataset=dataset, **given | common)
        source = resolve(dataset)
        by_type = not several and config.split.scheme in ("subtypes", "dirichlet")
        no_types = source.path.suffix == ".h5ad" and not (label_key or source.label_key)
        if by_type and no_types:  # of other formats the file says
            raise ConfigError(
                "data: one set of cells is split into labs by cell type; give label_key=, the "
                "column of obs with cell types, or batch_key=, the column that names the labs, or "
                'partition="iid"'
            )
        config = Config.of(dataset=dataset, **with_own_k(given | common, source))
        config = config.replace(run_name=run_name or new_name(config))
        folder = Path(config.run.output) / config.run.name
        silence_flower()
        try:
            if verbose:
                from rich.console import Console

                with RunProgress(folder, config.training.rounds, Console()):
                    run_inprocess(config)
            else:
                run_inprocess(config)
        except FedscError as error:
            error.args = (_by_lab(str(error), Path(scratch)),)
            raise
        finally:
            forget()  # this process goes on: several copies of the data would stay
    done = Run(folder)
    for warning in done.warnings:
        warn(warning, stacklevel=2)
    return done


def _dataset(
    data: "Cells | Mapping[str, Cells] | Sequence[Cells]", named: dict[str, Named], scratch: Path
) -> tuple[str, bool]:
    """Put the data where the engine finds them; say whether each lab has its own.

    Raises
    ------
    ConfigError
        If there are no labs, a name is none, or a lab has not got a column that is named.
    DataError
        If a lab's cells cannot be written.
    """
    from fedsc.data.reading.read import is_cells
    from partitioning.simulation import holds_labs, named_by

    labs: dict[str, Cells] = {}
    if isinstance(data, Mapping):
        labs = dict(data)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        labs = {f"lab-{i}": cells for i, cells in enumerate(data)}
    else:
        if by_lab := [name for name, value in named.items() if not isinstance(value, str)]:
            raise ConfigError(
                f"{by_lab[0]}: names by lab go with data by lab; in a folder of labs' files "
                f"{LABS} has them"
            )
        if isinstance(data, str | Path):
            path = Path(data).expanduser()
            return (str(path.resolve()) if path.exists() else str(data)), holds_labs(path)
        file = scratch / "data.h5ad"
        _write("data", data, file)
        return str(file), False
    if not labs:
        raise ConfigError("data: there are no labs in it")
    folder = scratch / "data"
    folder.mkdir()
    for name, value in named.items():
        if strange := set(value) - set(labs) if not isinstance(value, str) else ():
            raise ConfigError(f"{name}: there is no lab '{min(strange)}'")
    own = {}
    for lab, cells in labs.items():
        check_name(lab, "data: lab")
        told: dict[str, Any] = {}
        if isinstance(cells, str | Path):
            path = Path(cells).expanduser().resolve()
            if not (path.exists() and is_cells(path)):
                raise ConfigError(
                    f"data: lab {lab}: {cells} is no .h5ad, .h5 or .loom file and no 10x folder"
                )
            (folder / (lab if path.is_dir() else lab + path.suffix)).symlink_to(path)
            told = told_by_labs(path.parent).get(safe_name(named_by(path)), {})
        else:
            _write(f"data: lab {lab}", cells, folder / f"{lab}.h5ad")
        for name, value in named.items():
            if not isinstance(value, str):
                told[name] = value.get(lab, told.get(name, ""))
        if not isinstance(cells, str | Path):
            _has_columns(lab, cells, {**named, **told})
        own[lab] = {kebab(name): value for name, value in told.items()}
    (folder / LABS).write_text(tomli_w.dumps(own), encoding="utf-8")
    return str(folder), True


def _by_lab(text: str, scratch: Path) -> str:
    """Name labs, not the files that were made of them for the run."""
    from partitioning.simulation import named_by

    for file in sorted((scratch / "data").glob("*"), key=lambda file: -len(file.name)):
        text = text.replace(str(file), f"lab {named_by(file)}")
    return text.replace(str(scratch / "data.h5ad"), "data").replace(str(scratch / "data"), "data")


def _has_columns(lab: str, cells: "anndata.AnnData", named: Mapping[str, Any]) -> None:
    for name in ("label_key", "batch_key"):
        if (column := named[name]) and column not in cells.obs:
            raise ConfigError(
                f"data: lab {lab}: obs has no column '{column}' ({name}); if only some labs have "
                f'it, name it for these: {name}={{"LAB": "{column}"}}'
            )


def _write(what: str, cells: "anndata.AnnData", file: Path) -> None:
    """Write cells and leave them as they are: AnnData turns columns of text into categories."""
    try:
        cells.to_memory().write_h5ad(file)  # shares the arrays, but not the tables
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"{what}: anndata cannot write these cells ({error})") from error
