"""The pool's clusters as a run keeps them: enough to find any cell's cluster and place, offline.

The same bytes go to the labs and into the run folder (``clusters.safetensors``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from fedsc import tensors
from fedsc.data.reading.kept import Embedder, read_kept
from fedsc.errors import DataError
from fedsc.federated import graph, kmeans
from fedsc.federated.centres import batches
from fedsc.federated.micro import MicroCentres, unit, weigh

CLUSTERS = "clusters.safetensors"

FORMAT = 1
"""Version of the file; another number is refused."""

_MOST_CLUSTERS = 100_000


@dataclass(frozen=True)
class Clusters:
    """Clusters of the pool, the largest first.

    Attributes
    ----------
    micro
        Micro-centres, nodes of the graph.
    communities
        Graph cluster of every node, int64 (M,).
    centres
        Of k-means, float64 (k, d), d at most that of the embedding, of which the first d columns
        count; ``None`` where the graph's clusters are meant.
    sizes
        Cells of every cluster, int64 (k,).
    places
        Of every node on the map that all labs share, float64 (M, 2); ``None`` without a map.
    types
        Cell type of every cluster, ``"unknown"`` where none is known; empty where no lab is
        annotated.
    shares
        Share of a cluster's annotated cells that have the commonest type among them, float64 (k,);
        of a cluster ``"unknown"`` too, where that type is not named.
    model
        Digest of the model whose embedding they are of.
    integration
        Name of the integration after which the embedding is meant; ``""`` = as it was.
    """

    micro: MicroCentres
    communities: np.ndarray
    centres: np.ndarray | None
    sizes: np.ndarray
    places: np.ndarray | None
    types: tuple[str, ...]
    shares: np.ndarray
    model: str
    integration: str

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @property
    def dimensions(self) -> int:
        """Columns of the embedding they are of."""
        return int(self.micro.centres.shape[1])

    def assign(self, x: np.ndarray) -> np.ndarray:
        """Give every cell its cluster, int32 (cells,), from its embedding (cells, d)."""
        if self.centres is not None:
            return kmeans.assign(self.centres, x[:, : self.centres.shape[1]])
        return graph.assign(self.micro, self.communities, x)

    def distances(self, x: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Give every cell's distance to its cluster, float32 (cells,).

        Of k-means: to the centre, in the columns that count. Of the graph, whose clusters may have
        any shape: from the cell's unit vector to the nearest micro-centre of its cluster.

        Parameters
        ----------
        x
            Embedding, float (cells, d).
        clusters
            As :meth:`assign` gives them, int (cells,).
        """
        if self.centres is not None:
            away = x[:, : self.centres.shape[1]] - self.centres[clusters]
            return np.asarray(np.linalg.norm(away, axis=1), dtype=np.float32)
        found = np.zeros(len(x), dtype=np.float32)
        for cluster in np.unique(clusters):
            here = clusters == cluster
            nodes = self.micro.centres[self.communities == cluster]
            parts = [cdist(unit(batch), nodes).min(axis=1) for batch in batches(x[here])]
            found[here] = np.concatenate(parts)
        return found

    def place(self, x: np.ndarray) -> np.ndarray | None:
        """Place every cell on the map among its nearest nodes, float32 (cells, 2)."""
        if self.places is None:
            return None
        parts = [weigh(self.micro, batch) @ self.places for batch in batches(x)]
        return np.concatenate([np.empty((0, 2)), *parts]).astype(np.float32)

    def pack(self) -> bytes:
        """Put everything into bytes; the same clusters give the same bytes."""
        arrays = {
            "nodes": self.micro.centres,
            "sets": self.micro.sets,
            "scale": np.array([self.micro.scale]),
            "communities": self.communities,
            "sizes": self.sizes,
            "shares": self.shares,
        }
        arrays |= {
            name: array
            for name, array in (("centres", self.centres), ("places", self.places))
            if array is not None
        }
        about = {
            "format": FORMAT,
            "types": list(self.types),
            "model": self.model,
            "integration": self.integration,
        }
        return tensors.pack(arrays, about)

    @classmethod
    def unpack(cls, data: bytes) -> "Clusters":
        """Take clusters out of bytes, whoever wrote them.

        Raises
        ------
        DataError
            If they are damaged, or are not what :meth:`pack` makes.
        """
        try:
            arrays, about = tensors.unpack_with_about(data)
        except ValueError as error:
            raise DataError(f"the clusters cannot be read ({error})") from error
        return cls.from_arrays(arrays, about)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> "Clusters":
        """Make them of named arrays and what is kept with these, whoever wrote them.

        Raises
        ------
        DataError
            If these are not what :meth:`pack` puts into bytes.
        """
        try:
            return _checked(arrays, about)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"these are no clusters ({error})") from error


def load_clusters(folder: Path, model: Embedder) -> Clusters | None:
    """Load the clusters of a finished run, as :func:`~fedsc.data.reading.kept.read_kept`."""
    return read_kept(folder / CLUSTERS, Clusters.from_arrays, model)


def _checked(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Clusters:
    if about.get("format") != FORMAT:
        raise ValueError(f"their format is {about.get('format', 'none')!r:.20}, not {FORMAT}")
    nodes, sizes, centres = arrays["nodes"], arrays["sizes"], arrays.get("centres")
    (m, d), k = _rows_and_columns(nodes), sizes.size
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "nodes": ("f", (m, d)),
        "sets": ("i", (m,)),
        "scale": ("f", (1,)),
        "communities": ("i", (m,)),
        "sizes": ("i", (k,)),
        "shares": ("f", (k,)),
    }
    if "places" in arrays:
        shapes["places"] = ("f", (m, 2))
    if centres is not None:
        shapes["centres"] = ("f", (k, _rows_and_columns(centres)[1]))
    for name, (kind, shape) in shapes.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.itemsize != 8 or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype}{array.shape}")
        if kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    sets, communities = arrays["sets"], arrays["communities"]
    if not (m and d and 0 < k <= _MOST_CLUSTERS and (sizes >= 0).all()):
        raise ValueError(f"{m} nodes of {d} dimensions, {k} clusters")
    steps = np.diff(sets)
    if not (sets[0] == 0 and ((steps == 0) | (steps == 1)).all() and arrays["scale"][0] > 0):
        raise ValueError("its micro-centres are not in sets")
    most = communities.max() + 1 if centres is not None else k
    if not (communities.min() >= 0 and communities.max() < most):
        raise ValueError("a node is in a cluster that is none")
    if centres is not None and not 0 < centres.shape[1] <= d:
        raise ValueError(f"centres of {centres.shape[1]} dimensions")
    types = about.get("types")
    if not isinstance(types, list) or len(types) not in (0, k):
        raise ValueError("a type for each cluster is missing")
    if not all(isinstance(name, str) for name in types):
        raise ValueError("a type is no text")
    model = about.get("model", "")  # an earlier version named none
    if not isinstance(model, str):
        raise ValueError("the digest of their model is no text")
    integration = about.get("integration", "")  # an earlier version named none
    if not isinstance(integration, str):
        raise ValueError("the name of their integration is no text")
    micro = MicroCentres(nodes, sets, float(arrays["scale"][0]))
    places, shares = arrays.get("places"), arrays["shares"]
    return Clusters(
        micro, communities, centres, sizes, places, tuple(types), shares, model, integration
    )


def _rows_and_columns(array: np.ndarray) -> tuple[int, int]:
    if array.ndim != 2:
        raise ValueError(f"an array of shape {array.shape}, not rows and columns")
    rows, columns = array.shape
    return rows, columns
