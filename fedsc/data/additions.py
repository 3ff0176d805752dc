"""What FedSC adds to a file of cells, and the names it has there, scanpy style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import anndata
    import pandas as pd

MARKERS = "rank_genes_groups"


@dataclass(frozen=True)
class Additions:
    """What is added to the cells of a file, by name; ``None`` = what is there of that name goes.

    Attributes
    ----------
    obs
        Columns, one value a cell.
    obsm
        Arrays, one row a cell.
    uns
        Anything else.
    """

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    def add_to(self, cells: "anndata.AnnData") -> None:
        """Add everything to cells in memory, which are the same in the same order."""
        for name, column in self.obs.items():
            if column is None:
                cells.obs = cells.obs.drop(columns=name, errors="ignore")
            else:
                cells.obs[name] = column
        for place, items in ((cells.obsm, self.obsm), (cells.uns, self.uns)):
            for name, item in items.items():
                if item is not None:
                    place[name] = item
                elif name in place and not (name == MARKERS and not are_ours(place[name])):
                    del place[name]


@dataclass(frozen=True)
class Annotation:
    """FedSC's results for the cells of one file.

    Attributes
    ----------
    embedding
        float (cells, dimensions).
    clusters
        int (cells,), from 0 to k − 1.
    k
        Number of clusters: all of them are categories, also those with no cell here, so that
        they are the same in every lab.
    about
        What has to be known to use the results.
    types
        Cell type of every cluster, (k,); empty where none is known.
    shares
        Share of a cluster's annotated cells that have the commonest type among them, float (k,);
        of a cluster ``"unknown"`` too, where that type is not named.
    distances
        Of every cell to the nearest centre of its cluster, float (cells,); ``None`` = not known.
    places
        Of the cells on the map all labs share, float (cells, 2); ``None`` where there is none.
    markers
        In scanpy's own layout; ``None`` where there are none.
    left_out
        Why quality control leaves a cell out, str (all cells,), ``""`` = it does not; all else is
        of the others alone. ``None`` where there was no control.
    """

    embedding: np.ndarray
    clusters: np.ndarray
    k: int
    about: dict[str, Any]
    types: Sequence[str] = ()
    shares: np.ndarray | None = None
    distances: np.ndarray | None = None
    places: np.ndarray | None = None
    markers: dict[str, Any] | None = None
    left_out: np.ndarray | None = None


def cluster_column(clusters: np.ndarray, k: int) -> "pd.Categorical":
    """Name clusters; all k are categories, so that they and their colours are those of every lab.

    Parameters
    ----------
    clusters
        int (cells,); −1 = none.
    k
        How many there are.
    """
    import pandas as pd

    return pd.Categorical.from_codes(clusters, categories=[str(i) for i in range(k)])


def type_column(types: Sequence[str], clusters: np.ndarray) -> "pd.Categorical":
    """Give each cell the type of its cluster; the types of all clusters are categories.

    Parameters
    ----------
    types
        Of every cluster, (k,).
    clusters
        As of :func:`cluster_column`.
    """
    import pandas as pd

    names = sorted(set(types))
    codes = np.array([*(names.index(name) for name in types), -1])  # −1 is the last
    return pd.Categorical.from_codes(codes[clusters], categories=names)


def additions_of(results: Annotation) -> Additions:
    """Give FedSC's results the names that every file has them under.

    ``obsm["X_fedsc"]``, ``obs["fedsc_cluster"]`` and ``uns["fedsc"]``; where they are known also
    ``obs["fedsc_type"]``, ``obs["fedsc_type_share"]``, ``obs["fedsc_distance"]``,
    ``obsm["X_fedsc_umap"]`` and ``uns["rank_genes_groups"]``. After quality control also
    ``obs["fedsc_left_out"]``; all else is missing (NaN) for the cells left out. What an older run
    added of these goes; markers that are not of FedSC's clusters stay unless there are new ones.
    """
    import pandas as pd

    left_out = results.left_out
    n_cells = len(results.clusters) if left_out is None else len(left_out)
    rows = np.flatnonzero(np.ones(n_cells) if left_out is None else left_out == "")

    def spread(values: np.ndarray, missing: Any) -> np.ndarray:
        whole = np.full((n_cells, *values.shape[1:]), missing, dtype=values.dtype)
        whole[rows] = values
        return whole

    clusters = spread(results.clusters, -1)
    obs: dict[str, Any] = {
        "fedsc_cluster": cluster_column(clusters, results.k),
        "fedsc_type": None,
        "fedsc_type_share": None,
        "fedsc_distance": None,
        "fedsc_left_out": None,
    }
    if left_out is not None:
        obs["fedsc_left_out"] = pd.Categorical([why or None for why in left_out])
    if len(results.types) and results.shares is not None:
        obs["fedsc_type"] = type_column(results.types, clusters)
        obs["fedsc_type_share"] = spread(results.shares[results.clusters], np.nan)
    if results.distances is not None:
        obs["fedsc_distance"] = spread(results.distances.astype(np.float32), np.nan)
    places = results.places
    if places is not None:
        places = spread(places.astype(np.float32, copy=False), np.nan)
    return Additions(
        obs,
        {
            "X_fedsc": spread(results.embedding.astype(np.float32, copy=False), np.nan),
            "X_fedsc_umap": places,
        },
        {"fedsc": storable(results.about), MARKERS: results.markers},
    )


def storable(value: Any) -> Any:
    """Turn a record into what an h5ad file holds: no ``None``, no list, no "/" in a name."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None}
        return {str(key).replace("/", " per "): storable(item) for key, item in kept.items()}
    return np.asarray(value) if isinstance(value, list | tuple) else value


def are_ours(markers: Any) -> bool:
    """Tell markers of FedSC's clusters from those a person has made with scanpy."""
    params = markers.get("params") if isinstance(markers, Mapping) else None
    return isinstance(params, Mapping) and params.get("groupby") == "fedsc_cluster"
