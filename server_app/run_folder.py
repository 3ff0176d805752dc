"""The folder a run leaves behind, and nothing else the server writes.

``config.json`` options · ``preprocessing.json`` what the labs agreed on · ``quality.json`` which
cells and genes are left out · ``cells.json`` digests of a simulation's cells ·
``run.log`` and, for programs, ``log.jsonl`` · ``metrics.jsonl`` one line per round and lab ·
``curves.png`` the same drawn ·
``model.safetensors``, ``genes.csv`` and ``vocabulary.txt`` all that is needed to embed a new file ·
``clusters.safetensors`` the pool's clusters, their types, the map · ``markers.csv`` ·
``integration.safetensors`` how labs of different techniques were brought together ·
``scores.json`` ·
``checkpoint.safetensors`` and ``checkpoint.previous.safetensors`` the last two rounds ·
``report.html`` all of it for a person ·
``labs/`` private state of simulated labs, and their cells with the results.
"""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pandas as pd
from flwr.common import log
from flwr.common.logger import FLOWER_LOGGER
from pythonjsonlogger.json import JsonFormatter

from fedsc import tensors
from fedsc.clusters import CLUSTERS
from fedsc.config import WHERE, Config
from fedsc.data.preprocess import Preprocessing
from fedsc.data.quality import CellFilter, Thresholds
from fedsc.errors import ConfigError, RunError
from fedsc.federated.harmony import HARMONY
from fedsc.federated.marker_tables import as_csv
from fedsc.files import replace
from fedsc.model import Model
from fedsc.names import LONGEST, check_name, safe_name
from fedsc.plots.curves import run_curves
from fedsc.report.run import REPORT
from fedsc.run_files import (
    CELLS,
    CONFIG,
    LOG,
    LOG_WORDS,
    MARKERS,
    METRICS,
    PREPROCESSING,
    QUALITY,
    SCORES,
)
from fedsc.run_log import read_metrics
from server_app.analysis import Analysis
from server_app.preparation import Quality

_GENES = 500  # of each cluster in the table of markers
_Kept = TypeVar("_Kept")
_WORDS = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
# Whatever a call of log gives as ``extra`` (round, lab, reason, …) is a field of its own.
_JSON = JsonFormatter(
    "{levelname}{message}",
    style="{",
    rename_fields={"levelname": "level"},
    timestamp="time",
    json_ensure_ascii=False,
)


class RunFolder:
    """Paths and formats of one run folder."""

    def __init__(self, path: Path, taken_over: Mapping[str, tuple[Any, Any]] | None = None) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self._taken_over = dict(taken_over or {})

    @classmethod
    def open(cls, config: Config) -> "RunFolder":
        """Create the folder of a new run, or enter the one to resume.

        Raises
        ------
        ConfigError
            If the folder to resume is not a run's, or an option was other and what the run has done
            depends on it; or the new run's name is taken, or its place is none of its own.
        """
        if config.run.resume:
            path = Path(config.run.resume).resolve()
            return cls(path, _taken_over(path, config))
        name = check_name(config.run.name or new_name(config), "option run-name")
        if config.federation.wait_for_labs and not Path(config.run.output).is_absolute():
            raise ConfigError(
                f"option output = '{config.run.output}': with real labs (wait-for-labs) it has to "
                "be an absolute path at the server, e.g. output = '/server/runs': where a relative "
                "one leads depends on how the server was started"
            )
        path = Path(config.run.output).resolve() / name
        try:
            path.mkdir(parents=True, exist_ok=_came_to_nothing(path))
        except FileExistsError:
            raise ConfigError(
                f"{path} exists: resume it with resume = '{path}', or choose another run-name"
            ) from None
        except OSError as error:
            raise ConfigError(f"option output: cannot make {path}: {error.strerror}") from error
        folder = cls(path)
        (path / CELLS).unlink(missing_ok=True)  # of a start that came to nothing
        folder.write_json(CONFIG, config.to_mapping())
        return folder

    @contextmanager
    def led(self) -> Iterator[None]:
        """Lead the run alone, and keep in the logs what is said meanwhile, errors included.

        A ServerApp outlives a restart of its SuperLink and goes on, so a run that looks dead may
        be led still; two leaders would write over each other.

        Raises
        ------
        RunError
            If another process leads the run.
        """
        with (self.path / LOG_WORDS).open("ab") as lock:
            if not _locked(lock):
                raise RunError(
                    f"{self.path} is led by another process, which goes on when its SuperLink is "
                    "back: wait for its end or stop it (flwr stop), then resume"
                )
            with self._logged():
                yield

    def go_on(self) -> None:
        """Begin to change a folder that is resumed; that of a new run stays as it is.

        The results of an earlier end go first, or the new model would lie beside old clusters
        wherever the run is stopped: a run is finished again when it has come to its end again.
        Then it keeps and tells what the run does otherwise.
        """
        copies = sorted((self.path / "labs").glob("*.h5ad"))
        results = (self.path / name for name in (SCORES, REPORT, CLUSTERS, HARMONY, MARKERS))
        # At any moment, what is still there goes together: clusters never outlive an integration.
        for result in (*results, *copies):
            result.unlink(missing_ok=True)
        if self._taken_over:
            before = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
            new = {name: value for name, (_, value) in self._taken_over.items()}
            self.write_json(CONFIG, {**before, **new})
            changes = ", ".join(
                f"{k} = {v!r} (was {old!r})" for k, (old, v) in self._taken_over.items()
            )
            log(logging.INFO, "resuming with %s", changes, extra={"changed": list(new)})

    @contextmanager
    def _logged(self) -> Iterator[None]:
        handlers = []
        for name, formatter in ((LOG_WORDS, _WORDS), (LOG, _JSON)):
            handlers.append(logging.FileHandler(self.path / name, encoding="utf-8"))
            handlers[-1].setFormatter(formatter)
            handlers[-1].setLevel(logging.INFO)  # below it Flower and Ray talk of themselves
            FLOWER_LOGGER.addHandler(handlers[-1])
        try:
            yield
        except Exception as error:
            log(logging.ERROR, "the run failed: %s", error, extra={"reason": str(error)})
            raise
        finally:
            for handler in handlers:
                FLOWER_LOGGER.removeHandler(handler)
                handler.close()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        replace(
            self.path / name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def write_preprocessing(
        self, preprocessing: Preprocessing, labs: Iterable[str], fingerprint: str
    ) -> None:
        """Keep what labs agreed on: a resumed run must not depend on which labs are there."""
        about = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(preprocessing).items()
        }
        self.write_json(PREPROCESSING, {"fingerprint": fingerprint, "labs": sorted(labs), **about})

    def write_quality(self, quality: Quality, fingerprint: str) -> None:
        """Keep what quality control has decided, for the same reason."""
        self.write_json(QUALITY, {"fingerprint": fingerprint, **asdict(quality)})

    def write_cells(self, digests: Mapping[str, str], fingerprint: str) -> None:
        """Keep digests of the cells of a simulation's labs, by lab; of real labs none."""
        self.write_json(CELLS, {"fingerprint": fingerprint, "labs": digests})

    def read_preprocessing(self, fingerprint: str) -> Preprocessing | None:
        """Give what an earlier start of this run agreed on, bit for bit.

        ``None`` if it did not come so far, or its options were others.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        return self._kept(PREPROCESSING, fingerprint, _preprocessing_of)

    def read_agreed(self, fingerprint: str) -> tuple[str, ...]:
        """Name the labs that agreed on it; none where an earlier version did not keep them."""
        return (
            self._kept(PREPROCESSING, fingerprint, lambda told: tuple(told.get("labs", ()))) or ()
        )

    def read_quality(self, fingerprint: str) -> Quality | None:
        """Give what quality control has decided, as :meth:`read_preprocessing`."""
        return self._kept(QUALITY, fingerprint, _quality_of)

    def read_cells(self, fingerprint: str) -> dict[str, str] | None:
        """Give the digests of cells, as :meth:`read_preprocessing`."""
        return self._kept(CELLS, fingerprint, lambda about: dict(about["labs"]))

    def _kept(self, name: str, fingerprint: str, make: Callable[[Any], _Kept]) -> _Kept | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            return make(about) if about.pop("fingerprint") == fingerprint else None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}): start a new run") from error

    def write_model(self, model: Model) -> None:
        """Write the global model and all it needs to embed a new file."""
        for name, content in model.files().items():
            replace(self.path / name, content)

    def write_analysis(self, analysis: Analysis, vocabulary: Sequence[str]) -> None:
        """Write the clusters of the pool, their markers, and how labs were brought together."""
        clusters, harmony = analysis.clusters, analysis.integration.harmony
        if harmony is not None:  # first: clusters without it would be given to cells not moved
            replace(self.path / HARMONY, tensors.pack(harmony.arrays(), {"model": clusters.model}))
        replace(self.path / CLUSTERS, clusters.pack())
        replace(self.path / MARKERS, as_csv(analysis.markers.first(_GENES), vocabulary).encode())

    def write_curves(self, alpha: float | None) -> None:
        """Draw ``metrics.jsonl``."""
        if rows := self._metrics():
            image = io.BytesIO()
            run_curves(pd.DataFrame(rows), alpha).savefig(image, format="png", dpi=120)
            replace(self.path / "curves.png", image.getvalue())

    def append_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Append one line per row.

        Raises
        ------
        RunError
            If the disk does not take them.
        """
        path = self.path / METRICS
        try:
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; free some space") from error

    def last_metrics(self) -> list[dict[str, Any]]:
        """Read the lines of the last round; none of a method without rounds."""
        rows = self._metrics()
        return [row for row in rows if row["round"] == rows[-1]["round"]]

    def _metrics(self) -> list[dict[str, Any]]:
        path = self.path / METRICS
        return list(read_metrics(path.read_text().splitlines())) if path.exists() else []

    def forget_metrics_after(self, round_: int) -> None:
        """Drop lines of rounds that a resumed run will do again, and a half-written last line."""
        path = self.path / METRICS
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [
                line for line in lines for row in read_metrics([line]) if row["round"] <= round_
            ]
            replace(path, "".join(f"{line}\n" for line in kept).encode())


def _preprocessing_of(about: dict[str, Any]) -> Preprocessing:
    about.pop("labs", None)
    names = {name: tuple(about[name]) for name in ("genes", "vocabulary")}
    scales = {name: np.array(about[name], dtype=np.float64) for name in ("mean", "std")}
    return Preprocessing(**about | names | scales)


def _quality_of(about: dict[str, Any]) -> Quality:
    kept = about["cell_filter"]
    cell_filter = CellFilter(Thresholds(**kept["thresholds"]), tuple(kept["vocabulary"]))
    return Quality(**about | {"cell_filter": cell_filter, "rare": tuple(about["rare"])})


def _came_to_nothing(path: Path) -> bool:
    """Say whether a run's folder holds nothing but what it was to do, and nobody leads the run."""
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if CONFIG not in names or names - {CONFIG, CELLS, LOG_WORDS, LOG}:
        return False
    with (path / LOG_WORDS).open("ab") as lock:
        return _locked(lock)


def _taken_over(path: Path, config: Config) -> dict[str, tuple[Any, Any]]:
    """Give the options that are other than at the start of a run: old and new value, by name.

    Raises
    ------
    ConfigError
        If there is no run, or what it has done depends on such an option.
    """
    try:
        before = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        names = sorted(before.keys() | config.to_mapping().keys())
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"option resume = {str(path)!r}: no run folder is there") from None
    now, fixed = config.to_mapping(), config.fixed()
    changed = {
        name: (before.get(name), now.get(name))
        for name in names
        if name not in WHERE and before.get(name) != now.get(name)
    }
    refused = [
        f"{name} was {old!r}, not {new!r}"
        for name, (old, new) in changed.items()
        if name in fixed or name not in now
    ]
    if refused:
        raise ConfigError(
            f"{path} was started with other options, on which what it has done depends: "
            f"{'; '.join(refused)}; resume with these, or start a new run"
        )
    return changed


def _locked(file: IO[bytes]) -> bool:
    """Take a lock that the system frees with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows, where Flower's server does not run either
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def new_name(config: Config) -> str:
    """Name a run by the time, its method, its set, or how many real labs, and its seed."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    first = f"{now}-{safe_name(config.method.name.replace(':', '.'))}"[: LONGEST // 2]
    last = f"seed{config.run.seed}"
    # Real labs bring files of their own and have to be waited for; the set is then nobody's.
    labs = config.federation.wait_for_labs
    data = f"{labs}-labs" if labs else safe_name(Path(config.data.dataset).stem)
    data = data[: LONGEST - len(first) - len(last) - 2]
    return f"{first}-{data}-{last}"
