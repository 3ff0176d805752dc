"""The folder a run leaves behind, and nothing else the server writes.

``config.json`` options · ``run.log`` · ``metrics.jsonl`` one line per round and lab ·
``curves.png`` the same drawn ·
``model.safetensors``, ``genes.csv`` and ``vocabulary.txt`` all that is needed to embed a new file ·
``scores.json`` · ``checkpoint.safetensors`` · ``labs/`` private state of simulated labs.
"""

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.common import log
from flwr.common.logger import FLOWER_LOGGER

from fedsc.config import Config
from fedsc.errors import ConfigError, RunError
from fedsc.model import Model
from fedsc.plots import run_curves


class RunFolder:
    """Paths and formats of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"

    @classmethod
    def open(cls, config: Config) -> "RunFolder":
        """Create the folder of a new run, or enter the one to resume.

        Raises
        ------
        ConfigError
            If the folder to resume is not a run's, or the new run's name is taken.
        """
        if config.resume:
            path = Path(config.resume).resolve()
            if not (path / "config.json").exists():
                raise ConfigError(f"option resume = {config.resume!r}: no run folder is there")
            return cls(path)
        path = Path(config.output).resolve() / (config.run_name or new_name(config))
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(
                f"{path} exists: resume it with resume = '{path}', or choose another run-name"
            ) from None
        folder = cls(path)
        folder.write_json("config.json", config.to_mapping())
        return folder

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Keep in ``run.log`` what Flower logs meanwhile, and an error that ends the run."""
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        FLOWER_LOGGER.addHandler(handler)
        try:
            yield
        except Exception as error:
            log(logging.ERROR, "the run failed: %s", error)
            raise
        finally:
            FLOWER_LOGGER.removeHandler(handler)
            handler.close()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        self._replace(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def write_model(self, model: Model) -> None:
        """Write the global model and all it needs to embed a new file."""
        for name, content in model.files().items():
            self._replace(name, content)

    def write_curves(self, alpha: float | None) -> None:
        """Draw ``metrics.jsonl``."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            image = io.BytesIO()
            run_curves(rows, alpha).savefig(image, format="png", dpi=120)
            self._replace("curves.png", image.getvalue())

    def append_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Append one line per row."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def forget_metrics_after(self, round_: int) -> None:
        """Drop lines of rounds that a resumed run will do again, and a half-written last line."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["round"] <= round_:
                    kept.append(line + "\n")
            except ValueError:
                break
        self._replace("metrics.jsonl", "".join(kept).encode())

    def _replace(self, name: str, content: bytes) -> None:
        partial = self.path / f"{name}.partial"
        try:
            partial.write_bytes(content)
            os.replace(partial, self.path / name)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from error


def new_name(config: Config) -> str:
    """Name a run by the time, its method, its set and its seed."""
    data = Path(config.dataset).stem or "labs"
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return f"{now}-{config.method.replace(':', '.')}-{data}-seed{config.seed}"
