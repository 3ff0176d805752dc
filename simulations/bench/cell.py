"""One cell of a suite's grid: one method on one set with one seed, run and written down.

A cell's folder is named by what decides its result: its options, the code, the packages and the
data. So suites share cells, a finished one is not run again, and one of other code, packages or
data is. A federated cell's folder is an ordinary run folder: a run that was killed goes on from its
last checkpoint.
"""

import glob
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedsc.baselines import METHODS as CENTRALISED
from fedsc.config import Config
from fedsc.data.expression import Expression, LabCells
from fedsc.data.registry import resolve
from fedsc.errors import ConfigError
from fedsc.evaluate import METRICS
from fedsc.files import locked, make_folder, replace
from fedsc.names import LONGEST
from fedsc.options import kebab
from fedsc.run_files import CONFIG, SCORES
from fedsc.versions import versions
from simulations.bench.provenance import code_digest, data_digest

if TYPE_CHECKING:
    from fedsc.baselines.method import Settings

Scalar = bool | int | float | str
Row = dict[str, Scalar | None]

COSTS = ("seconds", "cpu_seconds", "peak_memory", "bytes_to_labs", "bytes_from_labs", "questions")
"""What a row says about the run, not about its result."""

ROW, EMBEDDING = "row.json", "embedding.npz"
"""Files of a finished cell: what it says, and what a centralised method found."""

_MOST_READABLE = LONGEST - 2 * len("-01234567")  # two digests follow
_OF_GRAPH = ("ari", "nmi", "rare_f1", "clusters", "stability")
_PACKAGES = ("torch", "numpy", "scikit-learn", "scanpy", "flwr")


class Cell(BaseModel):
    """What is run.

    Attributes
    ----------
    method
        A federated method (``fedsc methods``) or a centralised one (``fedsc fit``).
    dataset
        Name or path of a set.
    label_key
        Column with cell types; ``""`` = the set's own.
    seed
        Moves split, initial weights, masks and k-means together.
    options
        Of a federated method, options of :class:`~fedsc.config.Config`; of a centralised one,
        ``k``, ``resolution``, ``preset`` and values of the preset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    dataset: str
    label_key: str = ""
    seed: int
    options: dict[str, Scalar]

    @property
    def centralised(self) -> bool:
        """Whether the method sees all cells in one place."""
        return self.method in CENTRALISED

    @property
    def digest(self) -> str:
        """Hash of what is run: what the suite says, so an option added later does not change it."""
        decisive = self.model_dump(exclude_defaults=True)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def key(self) -> str:
        """Name of the cell's folder, readable and unique."""
        made_from = f"{code_digest(self.method)} {data_digest(self.dataset)} {_packages()}"
        return f"{self.name}-{hashlib.sha256(made_from.encode()).hexdigest()[:6]}"

    @property
    def name(self) -> str:
        """What is run, whatever the code and the data; short enough for a run's name."""
        return f"{self.readable}-{self.digest}"

    @property
    def readable(self) -> str:
        """The first part of the name, which many cells may have."""
        method = self.method.rpartition(".")[2].replace(":", ".")
        return f"{method}-{Path(self.dataset).stem}-seed{self.seed}"[:_MOST_READABLE]

    def config(self, output: Path) -> Config:
        """Give the config of a federated cell.

        Raises
        ------
        ConfigError
            If an option is unknown, out of range or not the suite's to set.
        """
        own: Row = {
            "method": self.method,
            "dataset": self.dataset,
            "label-key": self.label_key,
            "seed": self.seed,
            "output": str(output),
            "run-name": self.key,
        }
        if taken := [name for name in self.options if kebab(name) in (*own, "resume")]:
            raise ConfigError(
                f"option {taken[0]} = {self.options[taken[0]]!r}: leave it out; a suite sets it "
                "itself, from its lines, datasets and seeds"
            )
        # Nobody looks at the map.
        return Config.from_mapping({"draw-map": False, "files": False, **self.options, **own})

    def settings(self, folder: Path) -> "tuple[Settings, int | str]":
        """Give the settings and the k of a centralised cell.

        Raises
        ------
        ConfigError
            If the resolution is no number.
        """
        from fedsc.baselines.method import Settings

        options: dict[str, Any] = dict(self.options)
        k = options.pop("k", "auto")
        resolution = options.pop("resolution", Settings.resolution)
        if isinstance(resolution, bool | str):
            raise ConfigError(f"option resolution = {resolution!r}: should be a number")
        preset = str(options.pop("preset", ""))
        checkpoint = folder / "checkpoint"
        settings = Settings(resolution, self.seed, preset, options, checkpoint=checkpoint)
        return settings, k


def load_row(cell: Cell, output: Path) -> Row | None:
    """Load the row of a finished cell, or ``None``."""
    path = output / cell.key / ROW
    if not path.exists():
        return None
    row: Row = json.loads(path.read_text())
    return row


def of_other_code_or_data(cell: Cell, output: Path) -> bool:
    """Say whether a cell is finished with other code, packages or data only: such is not used."""
    folders = output.glob(f"{glob.escape(cell.name)}-*")
    return load_row(cell, output) is None and any((f / ROW).exists() for f in folders)


def run_cell(cell: Cell, output: Path) -> Row:
    """Run a cell unless it is finished, and write its row.

    Parameters
    ----------
    cell
        What to run.
    output
        Folder of the cells' folders.

    Returns
    -------
    Row
        Scores, cost and versions. Cost is ``None`` where the cell was killed and went on, or began
        with the rounds of another cell, since the first part of it is not known.

    Raises
    ------
    FedscError
        As the method does.
    """
    resolve(cell.dataset)  # a set that has to be downloaded has its digest only then
    folder = output / cell.key
    with locked(folder.with_name(f"{cell.key}.lock")):
        finished = load_row(cell, output)
        if finished is not None:
            return finished
        resumed = folder.exists() or _begun_with_shorter(cell, output)
        began, cpu_began = time.monotonic(), time.process_time()
        found = _centralised(cell, folder) if cell.centralised else _federated(cell, output)
        cost: Row = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - cpu_began,
            # of the whole process, which runs one cell
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "bytes_to_labs": found.pop("bytes_to_labs", None),
            "bytes_from_labs": found.pop("bytes_from_labs", None),
            "questions": found.pop("questions", None),
        }
        row: Row = {
            "cell": cell.key,
            "method": cell.method,
            "dataset": cell.dataset,
            "seed": cell.seed,
            "code": code_digest(cell.method),
            "data": data_digest(cell.dataset),
            "options": json.dumps(cell.options, sort_keys=True),
            **found,
            **(dict.fromkeys(COSTS) if resumed else cost),
            "resumed": resumed,
            **versions(*_PACKAGES),
        }
        replace(folder / ROW, (json.dumps(row, indent=2) + "\n").encode())
        return row


def _begun_with_shorter(cell: Cell, output: Path) -> bool:
    """Let a cell begin with the rounds of a finished one that differs in having fewer, if any.

    A run's first rounds do not depend on how many follow, so a sweep over rounds costs its longest
    run.
    """
    shorter: dict[int, Path] = {}
    for row in output.glob(f"{glob.escape(cell.readable)}-*/{ROW}"):
        rounds = json.loads(json.loads(row.read_text())["options"]).get("rounds")
        other = cell.model_copy(update={"options": {**cell.options, "rounds": rounds}})
        if rounds is not None and other.key == row.parent.name and _goes_on(other, cell, output):
            shorter[int(rounds)] = row.parent
    if not shorter:
        return False
    folder = output / cell.key
    part = folder.with_name(f"{cell.key}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(shorter[max(shorter)], part, ignore=shutil.ignore_patterns(ROW))
    part.rename(folder)
    return True


def _goes_on(shorter: Cell, longer: Cell, output: Path) -> bool:
    """Say whether one federated cell may be resumed as the other, with more rounds."""
    if longer.centralised:
        return False
    first, then = shorter.config(output), longer.config(output)
    return first.training.rounds < then.training.rounds and (
        first.fingerprint() == then.fingerprint()
    )


def _federated(cell: Cell, output: Path) -> Row:
    from simulations.inprocess import run_inprocess

    config = cell.config(output)
    folder = output / cell.key
    if (folder / CONFIG).exists():
        config = config.replace(resume=str(folder))
    traffic = run_inprocess(config)
    written = json.loads((folder / SCORES).read_text())
    pooled = written["pooled_integrated"] or written["pooled"]
    scores = pooled or written["kmeans"] or {}  # of encoders of their own, k unknown: none
    graph = written["graph"]
    given = None if pooled else config.analysis.k
    return {
        "k_is": f"k = {given}" if given else "true k",
        "clusters": None,
        **{name: scores.get(name) for name in METRICS},
        **{f"graph_{name}": graph[name] for name in _OF_GRAPH},
        **_mixing_of_labs(config, folder),
        "scored": "pooled" if pooled else "kmeans",
        "questions": sum(written["questions"].values()),
        "warning": "; ".join(written["warnings"]),
        "bytes_to_labs": traffic.to_labs,
        "bytes_from_labs": traffic.from_labs,
    }


def labs_of_run(config: Config, folder: Path) -> dict[str, LabCells]:
    """Give the cells of a finished simulated run, by lab: those that passed quality control."""
    from partitioning.simulation import simulated_labs
    from server_app.run_folder import RunFolder

    labs = simulated_labs(config.data, config.split, config.run.seed).labs
    quality = RunFolder(folder).read_quality(config.fingerprint())
    return quality.cell_filter.of_all(labs) if quality else labs


def types_of(parts: Iterable[LabCells]) -> np.ndarray:
    """Give the type of every cell of all parts; ``""`` where none is known."""
    return np.concatenate(
        [np.full(len(p.cells), "") if p.labels is None else p.labels for p in parts]
    )


def _mixing_of_labs(config: Config, folder: Path) -> Row:
    """Score the embedding that clusters are made of, where labs are batches."""
    from client_app.subjects import embedding_of
    from fedsc.federated.harmony import load_harmony
    from fedsc.model import load_model

    if config.split.scheme != "column":
        return {}
    labs = labs_of_run(config, folder)
    harmony = load_harmony(folder, load_model(folder))
    name = harmony.name if harmony else ""
    x = [embedding_of(folder / "labs" / lab, name) for lab in labs]
    batches = np.repeat(list(labs), [len(cells.cells) for cells in labs.values()])
    return _mixing(np.concatenate(x), batches, list(labs.values()))


def _mixing(x: np.ndarray, batches: np.ndarray, parts: Sequence[LabCells]) -> Row:
    """Score how batches mix and types stay apart, over the cells that have a type."""
    from fedsc.integration import scores

    labels = types_of(parts)
    known = labels != ""
    return {**scores(x[known], batches[known], labels[known])}


def whole_set(cell: Cell) -> Expression:
    """Read the set of a cell as a centralised method sees it."""
    from fedsc.data.reading.how import ReadAs
    from fedsc.data.reading.read import read

    source = resolve(cell.dataset)
    return read(source.path, ReadAs(source.layer, cell.label_key or source.label_key))


def _centralised(cell: Cell, folder: Path) -> Row:
    from fedsc.baselines.fitting import fit

    expression = whole_set(cell)
    settings, k = cell.settings(folder)
    make_folder(folder)
    fitted = fit(cell.method, expression, settings, k)
    found = fitted.record["scores"]
    arrays: dict[str, Any] = {
        "embedding": fitted.embedding.astype(np.float32),
        "clusters": fitted.clusters,
        **fitted.extras,
    }
    np.savez_compressed(folder / EMBEDDING, **arrays)
    mixing: Row = {}
    if batch_key := str(cell.options.get("batch-key", "")):
        batches = expression.obs[batch_key].astype(str).to_numpy()
        mixing = _mixing(fitted.embedding, batches, [expression])
    return {
        "k_is": {"auto": "Leiden", "true": "true k"}.get(str(k), f"k = {k}"),
        "clusters": int(found["k"]),
        **{name: found[name] for name in METRICS},
        **mixing,
        "scored": "pooled",
        "warning": "",
    }


@cache
def _packages() -> str:
    return str(versions(*_PACKAGES))
