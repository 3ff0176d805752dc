"""A run as its folder keeps it: scores, history, labs, markers, model.

>>> import fedsc
>>> run = fedsc.load("runs/my-run")
>>> run.scores
>>> run.labs["lab-0"].obs["fedsc_cluster"]
"""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from fedsc.clusters import CLUSTERS, Clusters, load_clusters
from fedsc.data.additions import cluster_column, type_column
from fedsc.data.joined import concat
from fedsc.data.reading.memory import refuse_large
from fedsc.data.reading.read import explained, read_anndata
from fedsc.data.reading.safe_hdf5 import open_hdf5
from fedsc.errors import DataError
from fedsc.files import identity
from fedsc.model import MODEL, Model, load_model
from fedsc.placement import embed
from fedsc.run_files import CELLS, CONFIG, LOG, MARKERS, METRICS, SCORES
from fedsc.run_log import Entry, read_entries, read_metrics

if TYPE_CHECKING:
    import anndata

T = TypeVar("T")

WAYS = {
    "graph": "graph, k unknown",
    "kmeans": "k-means, from sums",
    "pooled": "k-means, pooled (the papers)",
    "pooled_integrated": "k-means, pooled, integrated",
}
"""Ways to cluster, by their names in ``scores.json``."""

_OF_CELLS = ("fedsc_cluster", "fedsc_type", "fedsc_type_share", "fedsc_distance")
_MOST_TEXT = 2**28  # bytes of a table or a record


class Labs(Mapping[str, "anndata.AnnData"]):
    """The labs' files of a simulated run: ``run.labs["lab-0"]`` reads one.

    Parameters
    ----------
    folder
        ``labs`` in the run folder. It holds no files where a run was made without them, or its
        labs are real: these keep theirs.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in sorted(folder.glob("*.h5ad"))}

    def __getitem__(self, lab: str) -> "anndata.AnnData":
        return read_anndata(self.path(lab))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Labs({', '.join(self._files) or 'no files here'})"

    def path(self, lab: str) -> Path:
        """Give the file of a lab.

        Raises
        ------
        KeyError
            If the run folder has none of that name, saying which there are.
        """
        if lab not in self._files:
            there = ", ".join(self._files) or "none: the run was made without, or its labs are real"
            raise KeyError(f"there is no file of lab '{lab}'; there are {there}")
        return self._files[lab]


class Run:
    """A run, read from its folder; nothing is read before it is asked for.

    What is asked for is read once, and again when its file has changed: a run can be watched.

    Parameters
    ----------
    folder
        Of a run, finished or not.

    Raises
    ------
    DataError
        If it is not the folder of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._read: dict[Hashable, tuple[object, Any]] = {}
        if not (self.folder / CONFIG).is_file():
            raise DataError(f"{folder} is not the folder of a run: {CONFIG} is missing")

    def __repr__(self) -> str:
        return f"Run('{self.folder}')"

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the run, by its kebab-case name."""
        return self._once(CONFIG, lambda: dict(self._json(CONFIG)))

    @property
    def record(self) -> dict[str, Any]:
        """What ``scores.json`` holds (docs/reference/files.md); empty before the end."""
        return self._once(SCORES, lambda: dict(self._json(SCORES)) if self.finished else {})

    @property
    def finished(self) -> bool:
        """Whether the run has come to its scores."""
        return (self.folder / SCORES).exists()

    @property
    def of_real_labs(self) -> bool:
        """Whether labs brought files of their own; of a simulation the cells are known."""
        if not (self.folder / CELLS).exists():  # no lab has come yet
            return bool(self.options.get("wait-for-labs"))
        return self._once(CELLS, lambda: not self._json(CELLS)["labs"])

    @property
    def scores(self) -> pd.DataFrame:
        """Scores: a row for each way to cluster, trained and (``floor``) without training.

        Columns ``way``, ``floor``, ``clusters``, ``ari``, ``nmi``, ``silhouette`` and
        ``calinski_harabasz``; NaN where a score is not known.
        """
        sources = ((False, self.record), (True, self.record.get("floor") or {}))
        names = ("clusters", "ari", "nmi", "silhouette", "calinski_harabasz")
        rows = [
            {"way": way, "floor": floor, **{name: found[way].get(name) for name in names}}
            for floor, found in sources
            for way in WAYS
            if found.get(way)
        ]
        return pd.DataFrame(rows, columns=["way", "floor", *names])

    def training_helped(self, way: str) -> bool | None:
        """Say whether clusters are nearer the cell types (ARI) than without training.

        ``None`` where that is not known.
        """
        both = self.record, self.record.get("floor")
        ours, floor = (((scores or {}).get(way) or {}).get("ari") for scores in both)
        return None if ours is None or floor is None else bool(ours > floor)

    @property
    def history(self) -> pd.DataFrame:
        """Rounds: a row for each round and lab, as ``metrics.jsonl`` has them.

        Columns ``round``, ``lab``, ``cells``, ``loss``, ``d``, ``mu``, ``seconds`` …; ``failed``
        says why a lab gave no update. Empty for a method without rounds.
        """
        path = self.folder / METRICS
        lines = self._text(METRICS).splitlines() if path.exists() else []
        rows = list(read_metrics(lines))
        return pd.DataFrame(rows, columns=None if rows else ["round", "lab", "loss", "d", "mu"])

    @property
    def log(self) -> list[Entry]:
        """What the run has logged (``log.jsonl``); empty where it has not."""
        path = self.folder / LOG
        return list(read_entries(self._text(LOG).splitlines())) if path.exists() else []

    @property
    def failure(self) -> str:
        """Why the run stopped, where an error stopped it; else ``""``."""
        last = self.log[-1].fields if self.log else {}
        return str(last.get("reason", "")) if last.get("level") == "ERROR" else ""

    @property
    def labs(self) -> Labs:
        """The labs' cells with the results, by name; read when one is asked for."""
        return Labs(self.folder / "labs")

    @property
    def markers(self) -> pd.DataFrame:
        """Marker genes of every cluster, the best first (``markers.csv``)."""
        path = self.folder / MARKERS
        if not path.exists():
            raise DataError(f"{self.folder} has no {MARKERS}: the run has not come so far")
        refuse_large(path, _MOST_TEXT)
        return pd.read_csv(path, dtype={"gene": str}, keep_default_na=False, na_values=[""])

    @property
    def model(self) -> Model:
        """The trained model."""
        return self._once(MODEL, lambda: load_model(self.folder))

    @property
    def clusters(self) -> Clusters | None:
        """What places a cell; ``None`` before the run has clusters."""
        if not (self.folder / MODEL).exists():
            return None
        return self._once(CLUSTERS, lambda: load_clusters(self.folder, self.model))

    @property
    def warnings(self) -> list[str]:
        """What has to be known to trust the scores."""
        return list(self.record.get("warnings", ()))

    @property
    def cells(self) -> pd.DataFrame:
        """Results for the cells in the labs' files that have some, without their expression.

        Columns ``lab``, ``fedsc_cluster``, ``fedsc_type`` and others of ``obs`` that FedSC made,
        and ``x`` and ``y`` on the map, where the files have them.
        """
        return self._cells(()).copy()

    def _cells(self, more: tuple[str, ...]) -> pd.DataFrame:
        """Give :attr:`cells` with more columns of ``obs``, missing where a file has not got one."""

        def joined() -> pd.DataFrame:
            parts = [_results_in(self.labs.path(lab), more).assign(lab=lab) for lab in self.labs]
            return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"lab": []})

        return self._once("labs", joined, more)

    def _once(self, name: str, read: Callable[[], T], what: Hashable = ()) -> T:
        """Read something of the files of that name, unless it was and they have not changed."""
        now = identity(self.folder / name)
        if self._read.get((name, what), (None, None))[0] != now:
            self._read[name, what] = now, read()
        found: T = self._read[name, what][1]
        return found

    @property
    def composition(self) -> pd.DataFrame:
        """Number of cells by lab (rows) and cluster (columns); empty without labs' files."""
        cells = self.cells
        if cells.empty:
            return pd.DataFrame()
        counts = pd.crosstab(cells["lab"], cells["fedsc_cluster"], dropna=False)
        return counts.rename(columns=str)

    @property
    def columns(self) -> list[str]:
        """Columns of ``obs`` that some lab's file has; none without labs' files."""
        of_labs = (_columns_of(self.labs.path(lab)) for lab in self.labs)
        return list(dict.fromkeys(name for names in of_labs for name in names))

    @property
    def alpha(self) -> float | None:
        """Radius of FedSC's pull; ``None`` under another pull."""
        from fedsc.config import Config
        from fedsc.methods import method_of

        method = Config.from_mapping(self.options).method
        return method.alpha if method_of(method).pull == "fedsc" else None

    def places(self, *columns: str) -> tuple[np.ndarray, pd.DataFrame]:
        """Give the map: cells, where the labs' files are here, else micro-centres.

        Parameters
        ----------
        *columns
            More columns of the labs' ``obs`` that are wanted, where the files have them.

        Returns
        -------
        places, table
            float (points, 2), and what is known of every point.

        Raises
        ------
        DataError
            If the run drew no map.
        """
        cells = self._cells(columns)
        if "x" in cells:
            return cells[["x", "y"]].to_numpy(), cells
        found = self.clusters
        if found is None or found.places is None:
            raise DataError(f"{self.folder} has no map (option draw-map)")
        cluster = found.assign(found.micro.centres)
        table = pd.DataFrame({"fedsc_cluster": cluster_column(cluster, found.k)})
        if found.types:
            table["fedsc_type"] = type_column(found.types, cluster)
        return found.places, table

    def embed(
        self,
        adata: "anndata.AnnData",
        *,
        layer: str = "",
        symbols: str = "",
        make_unique: bool = False,
        fold_case: bool = False,
        resolution: float | None = None,
        seed: int = 0,
        private: str | Path | None = None,
        integration: str | Path | None = None,
        batch_key: str = "",
        allow_low_coverage: bool = False,
    ) -> "anndata.AnnData":
        """Embed new cells and give a copy with the clusters, types and map of the run.

        ``adata`` stays as it is; all else as :func:`fedsc.tl.embed`, which works in place.
        """
        placed = embed(
            adata,
            self,
            layer=layer,
            symbols=symbols,
            make_unique=make_unique,
            fold_case=fold_case,
            resolution=resolution,
            seed=seed,
            private=private,
            integration=integration,
            batch_key=batch_key,
            allow_low_coverage=allow_low_coverage,
            copy=True,
        )
        assert placed is not None
        return placed

    def concat(self) -> "anndata.AnnData":
        """Join the labs' files (see :func:`fedsc.data.joined.concat`)."""
        return concat({lab: self.labs.path(lab) for lab in self.labs})

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._text(name))
        except ValueError as error:
            raise DataError(f"{self.folder / name} is damaged ({error})") from error

    def _text(self, name: str) -> str:
        path = self.folder / name
        try:
            refuse_large(path, _MOST_TEXT)
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error


def load(folder: str | Path) -> Run:
    """Open the folder of a run.

    Parameters
    ----------
    folder
        As ``fedsc run`` or a deployment has left it.

    Raises
    ------
    DataError
        If it is not the folder of a run.
    """
    return Run(folder)


def _columns_of(path: Path) -> list[str]:
    with explained(), open_hdf5(path) as file:
        return [str(name) for name in file["obs"].attrs["column-order"]]


def _results_in(path: Path, more: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the columns that FedSC has added to a file, and those that are wanted."""
    from anndata.io import read_elem

    with explained(), open_hdf5(path) as file:
        names = [name for name in (*_OF_CELLS, *more) if name in file["obs"]]
        table = pd.DataFrame({name: read_elem(file["obs"][name]) for name in names})
        if "X_fedsc_umap" in file["obsm"]:
            table[["x", "y"]] = read_elem(file["obsm/X_fedsc_umap"])
    table = table[table["fedsc_cluster"].notna()]  # quality control may leave cells out
    ours = ("fedsc_cluster", "fedsc_type")  # with the categories that all labs share
    texts = [n for n in names if n not in ours and not pd.api.types.is_numeric_dtype(table[n])]
    return table.assign(**{n: table[n].astype(str).where(table[n].notna()) for n in texts})
