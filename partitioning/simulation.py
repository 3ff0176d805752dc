"""The labs of a simulation: one set of cells split into labs, or a folder with one file each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedsc.data.annotated import Origin, forget_file
from fedsc.data.expression import LabCells
from fedsc.data.labs_toml import LABS, own_columns, read_as
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.large import forget_others
from fedsc.data.reading.read import is_cells, may_be_cells, read_or_keep
from fedsc.data.registry import Source, cache_folder, resolve
from fedsc.errors import ConfigError
from fedsc.files import identity
from fedsc.names import safe_names
from fedsc.options import MOST_LABS, DataOptions, SplitOptions, kebab
from partitioning import partition


@dataclass(frozen=True, eq=False)
class Simulation:
    """Labs that live in one process.

    Attributes
    ----------
    labs
        Cells of every lab, by name.
    origins
        Where they are from, by lab.
    batch_keys
        Column of ``obs`` with batches, of labs that name one of their own.
    left_out
        Cells of types that no lab holds (``cover = "drop"``), or ``None``.
    scheme
        How one set was split, as ``partition`` says; ``""`` where each lab has a file of its own.
    not_read
        Sentence on what lies among labs' files and could hold cells; ``""`` if nothing.
    """

    labs: dict[str, LabCells]
    origins: dict[str, Origin]
    batch_keys: dict[str, str]
    left_out: LabCells | None
    scheme: str
    not_read: str = ""


def simulated_labs(data: DataOptions, split: SplitOptions, seed: int) -> Simulation:
    """Read ``data.dataset`` and split it; done once for the same options and the same files.

    Raises
    ------
    ConfigError
        If the set is unknown, the split is impossible or the number of labs does not fit.
    DataError
        If a file cannot be used.
    """
    source = resolve(data.dataset)
    files = [source.path]
    if holds_labs(source.path):
        files = [*lab_files(source.path).values(), source.path / LABS]
    return _simulate(source, data, split, seed, identity(*files))


@lru_cache(maxsize=1)
def _simulate(
    source: Source, data: DataOptions, split: SplitOptions, seed: int, _files: object
) -> Simulation:
    how = how_of(data, source)
    if holds_labs(source.path):
        return _one_file_each(source.path, how)
    whole = read_or_keep(source.path, _folder, how)
    forget_others([whole])
    parts = partition(whole, covering(split, source), seed)
    kept = np.concatenate(list(parts.values()))
    rest = np.setdiff1d(np.arange(len(whole.cells)), kept)
    return Simulation(
        labs={lab: whole.subset(rows) for lab, rows in parts.items()},
        origins={lab: Origin(source.path, rows, how) for lab, rows in parts.items()},
        batch_keys={},
        left_out=whole.subset(rest) if len(rest) else None,
        scheme=split.scheme,
    )


def forget() -> None:
    """Let go of the set that was read and split last, and of its file."""
    _simulate.cache_clear()
    forget_file()


def _folder() -> Path:
    """Give the folder for copies of large files' values: all processes of a simulation share it."""
    return cache_folder() / "simulated"


def how_of(data: DataOptions, source: Source) -> ReadAs:
    """Say how a set is read: a layer and labels of its own are its default."""
    return replace(
        ReadAs.of(data),
        layer=data.layer or source.layer,
        label_key=data.label_key or source.label_key,
    )


def covering(split: SplitOptions, source: Source) -> SplitOptions:
    """Leave types out where the papers do, of sets given by name; of a path every cell counts."""
    cover = split.cover or ("drop" if source.known else "all")
    return split.model_copy(update={"cover": cover})


def with_own_k(options: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Give a set its own number of types a lab, as its paper has it, unless one is given."""
    k = source.subtypes_per_lab
    given = k is None or "subtypes-per-lab" in map(kebab, options)
    return dict(options) if given else {**options, "subtypes-per-lab": k}


def _one_file_each(folder: Path, how: ReadAs) -> Simulation:
    files = lab_files(folder)
    own = own_columns(folder, files)
    hows = {lab: read_as(told, how) for lab, told in own.items()}
    labs = {
        lab: read_or_keep(file, _folder, hows[lab][0], files=len(files))
        for lab, file in files.items()
    }
    forget_others(labs.values())
    return Simulation(
        labs=labs,
        origins={lab: Origin(file, how=hows[lab][0]) for lab, file in files.items()},
        batch_keys={lab: batch_key for lab, (_, batch_key) in hows.items() if batch_key},
        left_out=None,
        scheme="",
        not_read=not_labs(folder),
    )


def holds_labs(path: Path) -> bool:
    """Tell a folder with a file or a 10x folder per lab from one set of cells."""
    return path.is_dir() and any(map(is_cells, path.glob("*")))


def not_labs(folder: Path) -> str:
    """Name what lies among labs' files and could hold cells, but is no lab; ``""`` if nothing."""
    names = sorted(path.name for path in folder.glob("*") if may_be_cells(path))
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")
    return f"no lab, so not read: {shown}; a lab is an .h5ad, .h5 or .loom file, or a 10x folder"


def lab_files(folder: Path) -> dict[str, Path]:
    """List the files and 10x folders in a folder by the labs' names, which they give.

    Raises
    ------
    ConfigError
        If two would have one name, or there are more than :data:`~fedsc.options.MOST_LABS`.
    """
    option, files = f"option dataset = '{folder}'", dict[str, Path]()
    for file in sorted(filter(is_cells, folder.glob("*"))):
        other = files.setdefault(named_by(file), file)
        if other != file:
            raise ConfigError(
                f"{option}: '{other.name}' and '{file.name}' would be one lab: rename one, or "
                "move it away"
            )
    if len(files) > MOST_LABS:
        raise ConfigError(
            f"{option}: the folder holds {len(files)} files of labs, allowed are {MOST_LABS} labs"
        )
    return {lab: files[name] for lab, name in safe_names(files, option).items()}


def named_by(file: Path) -> str:
    """Give the name that a file or a 10x folder gives to its lab."""
    return file.name if file.is_dir() else file.stem
