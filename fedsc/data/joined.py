"""Labs' files with results as one, in memory or from disk to disk.

Genes have the names the run knew them by, and ``X`` holds the values it read: a lab may have named
its genes by a column, or had its counts in a layer.

From disk to disk everything but the matrices comes into memory; ``X``, layers and ``raw`` are read
and written a block of cells at a time. (``anndata.experimental.concat_on_disk`` needs dask, and
leaves out ``raw`` and ``uns``.)
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from fedsc.data.additions import MARKERS
from fedsc.data.annotated import pack, reserve
from fedsc.data.genes import fold_case, match
from fedsc.data.joined_matrices import JoinedMatrix, joined_matrix
from fedsc.data.reading.hdf5 import named_genes
from fedsc.data.reading.read import explained, read_anndata
from fedsc.data.reading.safe_hdf5 import open_hdf5, refuse_large
from fedsc.errors import DataError
from fedsc.files import replacing

if TYPE_CHECKING:
    import anndata


_Tables = Mapping[str, pd.DataFrame]
"""Annotation of genes by lab."""


def concat(files: Mapping[str, Path]) -> "anndata.AnnData":
    """Join labs' files with results into one, where their owners may.

    Cells are named ``NAME-LAB`` where two labs name a cell alike. ``obs["fedsc_lab"]`` says whose
    a cell is. Genes are those of any lab, under the names the run knew them by; a value nobody
    measured is 0 in a sparse matrix. Where the run read different layers of the labs' files, ``X``
    holds what it read, and no other values are joined. Of ``uns``, what is the same in all stays,
    and markers of the first lab, which are the pool's.

    Parameters
    ----------
    files
        ``.h5ad`` files by lab, with results of one run.

    Raises
    ------
    DataError
        If there is none, one cannot be read or has no results, or they are of different runs.
    """
    import anndata

    parts = {lab: read_anndata(path) for lab, path in files.items()}
    places = _read_places(files, parts)
    if _differ(places):
        parts = {lab: _bare(part, *_values(part, places[lab])) for lab, part in parts.items()}
    raw = {lab: part.raw.var for lab, part in parts.items() if part.raw is not None}
    raw = _rename(parts, raw if len(raw) == len(parts) else {})
    for lab, var in raw.items():
        parts[lab].raw = anndata.AnnData(parts[lab].raw.X, var=var)
    return _joined(parts)


def write_joined(files: Mapping[str, Path], output: Path) -> int:
    """Join labs' files as :func:`concat` does, without reading a matrix whole.

    A matrix that a file stores by gene (CSC) is read whole, one file at a time.

    Parameters
    ----------
    files
        As there.
    output
        An ``.h5ad`` file, replaced whole or not at all.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    DataError
        As there.
    RunError
        If it cannot be written.
    """
    from anndata.io import write_elem

    with ExitStack() as stack:
        opened, parts = {}, {}
        for lab, path in files.items():
            with explained():
                opened[lab] = stack.enter_context(open_hdf5(path))
                parts[lab] = _without_matrices(opened[lab])
        places = _read_places(files, parts)
        with explained():
            raw = _raw_tables(opened)
            if _differ(places):
                for lab, place in places.items():
                    if opened[lab].get(place) is None:
                        raise _missing(place)
                    var = raw[lab] if place == _RAW else parts[lab].var
                    parts[lab] = _bare(parts[lab], None, var)
                raw = {}
            raw = _rename(parts, raw if len(raw) == len(parts) else {})
            joined = _joined(parts)
            raw_var = _joined_var(raw) if raw else None
            matrices = _matrices(opened, parts, places, joined.var_names)
            if raw_var is not None:
                panels = {lab: var.index for lab, var in raw.items()}
                at = dict.fromkeys(opened, _RAW)
                matrices.append(joined_matrix(_RAW, opened, at, panels, raw_var.index))
        matrices = [matrix for matrix in matrices if matrix.nodes]
        with replacing(output) as partial:
            partial.write_bytes(pack(joined))
            reserve(partial, sum(matrix.n_bytes for matrix in matrices))
            with h5py.File(partial, "r+") as file:
                if raw_var is not None:
                    group = file.create_group("raw")
                    group.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
                    write_elem(group, "var", raw_var)
                    write_elem(group, "varm", {})
                for matrix in matrices:
                    matrix.write(file)
    return int(joined.n_obs)


_RAW = "raw/X"


def _read_places(
    files: Mapping[str, Path], parts: "Mapping[str, anndata.AnnData]"
) -> dict[str, str]:
    """Say where in each lab's file the values lie that the run read.

    Raises
    ------
    DataError
        If these are not files with results of one run.
    """
    if not parts:
        raise DataError("there are no labs' files: the run was made without, or its labs are real")
    for lab, part in parts.items():
        if "fedsc_cluster" not in part.obs or "fedsc" not in part.uns:
            raise DataError(f"{files[lab]}: has no results of a run")
    models = {str(part.uns["fedsc"].get("model")) for part in parts.values()}
    if len(models) > 1:
        raise DataError(f"the files are of different runs (models {', '.join(sorted(models))})")
    layers = {lab: str(part.uns["fedsc"].get("layer", "")) for lab, part in parts.items()}
    return {
        lab: {"": "X", "raw": _RAW}.get(layer, f"layers/{layer}") for lab, layer in layers.items()
    }


def _differ(places: Mapping[str, str]) -> bool:
    """Tell whether ``X`` of the files would mix values that the run did not."""
    return len(set(places.values())) > 1


def _missing(place: str) -> DataError:
    return DataError(f"a file has no {place} any more, whose values the run read")


def _values(part: "anndata.AnnData", place: str) -> tuple[Any, pd.DataFrame]:
    """Give the values a run read, and the annotation of their genes."""
    if place == _RAW and part.raw is not None:
        return part.raw.X, part.raw.var
    layer = place.removeprefix("layers/")
    if place != "X" and layer not in part.layers:
        raise _missing(place)
    return (part.X if place == "X" else part.layers[layer]), part.var


def _bare(part: "anndata.AnnData", values: Any, var: pd.DataFrame) -> "anndata.AnnData":
    """Give cells with one matrix alone."""
    import anndata

    return anndata.AnnData(values, obs=part.obs, var=var, obsm=part.obsm, uns=part.uns)


def _rename(parts: "Mapping[str, anndata.AnnData]", raw: _Tables) -> dict[str, pd.DataFrame]:
    """Give the genes of all labs the run's names for them; give ``raw`` the same way.

    The markers of the first lab get them too.
    """
    whole, raw_names = _names({lab: part.var for lab, part in parts.items()}, parts), {}
    first = next(iter(parts))
    renamed = dict(zip(parts[first].var_names, whole[first], strict=True))
    if raw:
        raw_names = _names(raw, parts)
        renamed |= dict(zip(raw[first].index, raw_names[first], strict=True))
    for lab, part in parts.items():
        part.var_names = whole[lab]
    uns, renamed = parts[first].uns, {a: b for a, b in renamed.items() if a != b}
    if renamed and MARKERS in uns:
        uns[MARKERS] = _renamed_markers(uns[MARKERS], renamed)
    return {lab: var.set_axis(raw_names[lab]) for lab, var in raw.items()}


def _names(tables: _Tables, parts: "Mapping[str, anndata.AnnData]") -> dict[str, pd.Index]:
    """Name genes as the run did, and a gene that labs spell differently as the first of them.

    Raises
    ------
    DataError
        If names repeat within a lab, unless all labs have the same genes.
    """
    read = {lab: _as_read(var, parts[lab].uns["fedsc"]) for lab, var in tables.items()}
    first = next(iter(read.values()))
    if all(np.array_equal(names, first) for names in read.values()):
        return {lab: pd.Index(names, name=tables[lab].index.name) for lab, names in read.items()}
    found, known = {}, np.empty(0, dtype=object)
    for lab, names in read.items():
        if repeated := pd.Index(names)[pd.Index(names).duplicated()].tolist():
            raise DataError(
                f"lab {lab} names {len(repeated)} genes twice ({repeated[0]}), and the labs have "
                "different genes: make the names in its file unique"
            )
        at = match(names, known)
        own = names.copy()
        own[at >= 0] = known[at[at >= 0]]
        found[lab] = pd.Index(own, name=tables[lab].index.name)
        known = np.concatenate([known, names[at < 0]])
    return found


def _as_read(var: pd.DataFrame, told: Mapping[str, Any]) -> np.ndarray:
    """Name genes as a lab's file says it was read."""
    from anndata.utils import make_index_unique

    column = str(told.get("symbols", ""))
    names, _, _ = named_genes(var, column if column in var else "")
    if told.get("fold-case"):
        names = fold_case(names)
    if told.get("make-unique"):
        names = make_index_unique(pd.Index(names)).to_numpy(dtype=object)
    return names


def _renamed_markers(markers: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = dict(markers)
    if "names" in found:
        table = pd.DataFrame.from_records(found["names"])
        renamed = table.map(lambda name: names.get(name, name))
        found["names"] = renamed.to_records(index=False, column_dtypes=object)
    for shares in {"pts", "pts_rest"} & found.keys():
        found[shares] = found[shares].rename(index=names)
    return found


def _joined(parts: "Mapping[str, anndata.AnnData]") -> "anndata.AnnData":
    import anndata

    names = pd.Index(np.concatenate([part.obs_names for part in parts.values()]))
    joined = anndata.concat(
        parts,
        label="fedsc_lab",
        join="outer",
        merge="same",
        uns_merge="same",
        index_unique=None if names.is_unique else "-",
    )
    first = next(iter(parts.values()))
    if MARKERS in first.uns:
        joined.uns[MARKERS] = first.uns[MARKERS]
    categories = first.obs["fedsc_cluster"].cat.categories
    joined.obs["fedsc_cluster"] = pd.Categorical(joined.obs["fedsc_cluster"], categories)
    return joined


def _joined_var(tables: _Tables) -> pd.DataFrame:
    """Join annotation of genes as anndata does."""
    import anndata

    bare = [anndata.AnnData(var=var) for var in tables.values()]
    return anndata.concat(bare, join="outer", merge="same").var


def _without_matrices(file: h5py.File) -> "anndata.AnnData":
    """Read what is in a file but its matrices and what is between cells, which is not joined."""
    import anndata
    from anndata.io import read_elem

    kept = [name for name in ("obs", "var", "obsm", "varm", "uns") if name in file]
    refuse_large(*(file[name] for name in kept))
    return anndata.AnnData(**{name: read_elem(file[name]) for name in kept})


def _raw_tables(opened: Mapping[str, h5py.File]) -> dict[str, pd.DataFrame]:
    """Read the annotation of the genes in ``raw`` of the files that have that."""
    from anndata.io import read_elem

    found = {
        lab: file["raw"] for lab, file in opened.items() if isinstance(file.get("raw"), h5py.Group)
    }
    refuse_large(*(raw["var"] for raw in found.values()))
    return {lab: read_elem(raw["var"]) for lab, raw in found.items()}


def _matrices(
    opened: Mapping[str, h5py.File],
    parts: "Mapping[str, anndata.AnnData]",
    places: Mapping[str, str],
    genes: pd.Index,
) -> list[JoinedMatrix]:
    """List ``X`` and layers of any lab, or what the run read as ``X`` where that differs."""
    panels = {lab: part.var_names for lab, part in parts.items()}
    if _differ(places):
        return [joined_matrix("X", opened, places, panels, genes)]
    layers = dict.fromkeys(
        f"layers/{name}" for content in opened.values() for name in content.get("layers", {})
    )
    return [
        joined_matrix(name, opened, dict.fromkeys(opened, name), panels, genes)
        for name in ("X", *layers)
    ]
