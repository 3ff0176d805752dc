"""Readers of the HDF5 formats: h5ad, 10x, loom, and the X/Y layout of scDeepCluster.

Each finds names and annotation and points at the matrix, which stays in the file (see
:mod:`fedsc.data.reading.stored`). What a file is, its content says; ``.h5`` alone means three
things.
"""

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from fedsc.data.reading.contents import Contents, layer_name, name_genes, only_genes, positional
from fedsc.data.reading.memory import memory_problem
from fedsc.data.reading.safe_hdf5 import refuse_large
from fedsc.data.reading.stored import Compressed, Dense, Stored
from fedsc.errors import DataError

_GENE_NAMES = ("Gene", "gene_names", "gene_name", "genes", "Genes", "var_names", "Accession")
_CELL_NAMES = ("CellID", "cell_names", "barcodes", "barcode", "obs_names")
_GENE_IDS = ("Accession", "gene_ids")
_MATRICES = ("X", "raw.X", "raw", "layers")
_BYTES_PER_NAME = 100


def read_hdf5(file: h5py.File, layer: str, symbols: str = "") -> Contents:
    """Recognise the format of an open HDF5 file and find its parts.

    Parameters
    ----------
    file
        Must stay open until the matrix is loaded.
    layer
        ``""`` for the main matrix, ``"raw"`` for ``adata.raw``, else a layer's name.
    symbols
        Column of an h5ad's ``var`` that names the genes; ``""`` = they have the names of ``var``.

    Raises
    ------
    DataError
        If the layout is none of the four, or the layer is missing.
    """
    if "obs" in file and "var" in file:
        return _h5ad(file, layer, symbols)
    if symbols:
        raise DataError(f"only .h5ad files have columns of var: leave symbols = '{symbols}' out")
    if isinstance(file.get("matrix"), h5py.Dataset) and "row_attrs" in file:
        return _loom(file, layer)
    genomes = [k for k, v in file.items() if isinstance(v, h5py.Group) and "barcodes" in v]
    if genomes or isinstance(file.get("X"), h5py.Dataset):
        if layer:
            raise DataError(f"the file has no layers, so there is no '{layer}': leave layer out")
        return _tenx(file, genomes) if genomes else _xy(file)
    raise DataError(
        "the file is HDF5 but neither h5ad, 10x, loom nor a dense X with labels Y; it holds "
        + (", ".join(list(file)[:8]) or "nothing")
    )


def _h5ad(file: h5py.File, layer: str, symbols: str) -> Contents:
    """Read ``obs`` and gene names through anndata; obsm, obsp and uns are not touched."""
    nodes = {name: file[f"layers/{name}"] for name in file.get("layers", {})}
    for key, name in {"raw.X": "raw", "raw/X": "raw", "X": ""}.items():
        if key in file:
            nodes[name] = file[key]
    if layer not in nodes:
        known = ", ".join(sorted(layer_name(name) for name in nodes))
        missing = f"there is no layer '{layer}'" if layer else "the file has no X"
        if not known:
            raise DataError(f"{missing} and no other matrix: write the expression values into X")
        raise DataError(f"{missing}; it has: {known} (option layer chooses one)")
    obs, var = _annotation(file, layer)
    genes, own, notes = named_genes(var, symbols)
    return Contents(
        matrix=_node(nodes[layer]),
        genes=genes,
        cells=obs.index.to_numpy(dtype=object),
        obs=obs,
        name=layer_name(layer),
        others={
            name: _node(node)
            for name, node in nodes.items()
            if name != layer
            and ("indptr" in node if isinstance(node, h5py.Group) else node.ndim == 2)
        },
        notes=notes,
        var_names=own,
    )


def named_genes(
    var: pd.DataFrame, symbols: str
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Name genes as ``var`` does, or by a column of it.

    Parameters
    ----------
    var
        Annotation of the genes, (genes, annotations).
    symbols
        The column; ``""`` = the names of ``var``. A gene without a name there keeps its own.

    Returns
    -------
    names, own, notes
        Names, (genes,); how ``var`` names them, ``None`` where that is the same; sentences on what
        was done.

    Raises
    ------
    DataError
        If there is no such column.
    """
    own = var.index.astype(str).to_numpy(dtype=object)
    if not symbols:
        return own, None, ()
    if symbols not in var.columns:
        known = ", ".join(map(str, var.columns)) or "no columns"
        raise DataError(f"there is no column '{symbols}' of gene names; var has: {known}")
    named = var[symbols].astype(str).to_numpy(dtype=object)
    missing = var[symbols].isna().to_numpy() | (named == "")
    names, repeated = name_genes(np.where(missing, own, named).astype(object), own)
    notes = [f"genes are named by the column '{symbols}' of var", *repeated]
    if missing.any():
        notes.append(f"{missing.sum()} genes have no name there and keep their own")
    return names, own, tuple(notes)


def _annotation(file: h5py.File, layer: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    import anndata
    from anndata.io import read_elem

    with warnings.catch_warnings():  # of old formats and repeated names: we say it ourselves
        warnings.simplefilter("ignore")
        if isinstance(file["obs"], h5py.Dataset):  # before anndata 0.7, which reads all but X
            refuse_large(*[node for key, node in file.items() if key not in _MATRICES])
            adata = anndata.read_h5ad(Path(file.filename), backed="r")
            obs = adata.obs
            var = (adata.raw if layer == "raw" else adata).var
            adata.file.close()
        else:
            annotation = file["obs"], file["raw/var" if layer == "raw" else "var"]
            refuse_large(*annotation)
            obs, var = map(read_elem, annotation)
    obs.index = obs.index.astype(str)
    return obs, var


def _node(node: h5py.Dataset | h5py.Group) -> Stored:
    if isinstance(node, h5py.Dataset) and node.ndim == 2:
        return Dense(node)
    form = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "unknown"))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    if shape is None or str(form)[:3] not in ("csr", "csc"):
        raise DataError(f"{node.name} is stored as '{form}', not as a dense, CSR or CSC matrix")
    return _compressed(node, (int(shape[0]), int(shape[1])), by_gene=str(form).startswith("csc"))


def _compressed(node: Any, shape: tuple[int, int], *, by_gene: bool = False) -> Compressed:
    return Compressed(node["data"], node["indices"], node["indptr"], shape, by_gene)


def _tenx(file: h5py.File, genomes: list[str]) -> Contents:
    """Read Cell Ranger's format: ``matrix/features`` since version 3, a genome's group before."""
    if len(genomes) > 1:
        raise DataError(
            f"the file holds the matrices of {len(genomes)} genomes ({', '.join(genomes)}): "
            "save the one to use as .h5ad"
        )
    group = file[genomes[0]]
    features = group.get("features")
    if features is None:
        symbols, ids, kinds = _strings(group["gene_names"]), _strings(group["genes"]), None
    else:
        ids = _strings(features["gene_id" if "gene_id" in features else "id"])
        symbols, kinds = _strings(features["name"]), _strings(features["feature_type"])
    columns, left_out = only_genes(kinds)
    if columns is not None:
        symbols, ids = symbols[columns], ids[columns]
    genes, renamed = name_genes(symbols, ids)
    cells = _strings(group["barcodes"])
    refuse_large(group["shape"])
    n_features, n_cells = group["shape"][:]  # CSC of features × cells is CSR of cells × features
    return Contents(
        matrix=_compressed(group, (int(n_cells), int(n_features))),
        genes=genes,
        cells=cells,
        obs=pd.DataFrame(index=cells),
        columns=columns,
        notes=left_out + renamed,
    )


def _loom(file: h5py.File, layer: str) -> Contents:
    """Read loom's documented layout, which saves the dependency on loompy."""
    layers = {name: Dense(node, genes_first=True) for name, node in file.get("layers", {}).items()}
    layers[""] = Dense(file["matrix"], genes_first=True)
    if layer not in layers:
        known = ", ".join(sorted(filter(None, layers))) or "none beside its main matrix"
        raise DataError(f"there is no layer '{layer}'; the file has: {known}")
    matrix = layers.pop(layer)
    genes, renamed = _names(file["row_attrs"], _GENE_NAMES, "g", matrix.shape[1])
    cells, _ = _names(file["col_attrs"], _CELL_NAMES, "c", matrix.shape[0])
    return Contents(
        matrix=matrix,
        genes=genes,
        cells=cells,
        obs=_columns(file["col_attrs"], cells),
        name=layer_name(layer) if layer else "the matrix",
        others=layers,
        notes=renamed,
    )


def _xy(file: h5py.File) -> Contents:
    """Read scDeepCluster's layout: dense cells × genes ``X``, labels ``Y``."""
    if file["X"].ndim != 2:
        raise DataError(f"X has {file['X'].ndim} dimensions instead of two, cells × genes")
    matrix = Dense(file["X"])
    n_cells, n_genes = matrix.shape
    labels = file.get("Y")
    if labels is not None and labels.size != n_cells:
        raise DataError(f"X holds {n_cells} cells (its rows) but Y holds {labels.size} labels")
    genes, renamed = _names(file, _GENE_NAMES, "g", n_genes)
    cells, _ = _names(file, _CELL_NAMES, "c", n_cells)
    return Contents(
        matrix=matrix,
        genes=genes,
        cells=cells,
        obs=_columns(file, cells),
        name="X",
        label_key="" if labels is None else "Y",
        notes=renamed,
    )


def _names(
    group: h5py.Group, keys: tuple[str, ...], prefix: str, count: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the names of an axis under one of several customary keys, or number it."""
    found = next((key for key in keys if key in group), None)
    if found is None:
        if problem := memory_problem(count * _BYTES_PER_NAME):
            raise DataError(problem)
        return positional(prefix, count), ()
    names = _strings(group[found])
    ids = next((key for key in _GENE_IDS if key in group and key != found), None)
    return (names, ()) if ids is None else name_genes(names, _strings(group[ids]))


def _columns(group: h5py.Group, cells: np.ndarray) -> pd.DataFrame:
    """Collect what has one value per cell, except the cells' names."""
    columns = {
        key: _values(node).ravel()
        for key, node in group.items()
        if isinstance(node, h5py.Dataset) and key not in _CELL_NAMES + _GENE_NAMES
        if node.shape in ((len(cells),), (len(cells), 1))
    }
    return pd.DataFrame(columns, index=cells)


def _values(node: h5py.Dataset) -> np.ndarray:
    refuse_large(node)
    values: np.ndarray = node[()]
    if values.dtype.kind in "OS":  # h5py gives text as bytes
        text = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.flat]
        return np.array(text, dtype=object)
    return values


def _strings(node: h5py.Dataset) -> np.ndarray:
    return _values(node).ravel().astype(str).astype(object)
