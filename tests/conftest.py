"""What tests share: real data, a tiny set, how hypothesis runs."""

import json
import os

# Test processes share the cores: threads of one would wait for those of another.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from fedsc.config import Config

# Shared machines are slow at times; what a test finds must not depend on when it runs.
settings.register_profile(
    "fedsc", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fedsc")

_DATA = Path(os.environ.get("FEDSC_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Give the path of a real set by name, or skip the test saying what is missing."""

    def find(name: str) -> Path:
        path = _DATA / f"{name}.h5ad"
        if not path.exists():
            pytest.skip(f"{name}.h5ad is not in {_DATA}; set FEDSC_DATA to a folder that has it")
        return path

    return find


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 96 cells of 4 types with marker genes, 60 genes, raw counts."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    types = np.arange(96) % 4
    rates = rng.gamma(1.0, 2.0, size=60)[None, :] * np.ones((4, 1))
    for kind in range(4):
        rates[kind, kind * 12 : (kind + 1) * 12] *= 6
    cells = anndata.AnnData(
        csr_matrix(rng.poisson(rates[types]).astype(np.float32)),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical([f"type{kind}" for kind in types]),
                "donor": pd.Categorical([f"donor{i}" for i in rng.integers(0, 3, 96)]),
            },
            index=[f"cell{i}" for i in range(96)],
        ),
        var=pd.DataFrame(index=[f"TP{i}" for i in range(60)]),
    )
    path = tmp_path_factory.mktemp("data") / "tiny.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_set: Path) -> Config:
    """Give a config that trains 4 labs on the tiny set in a fraction of a second."""
    return Config.of(
        dataset=str(tiny_set),
        label_key="cell_type",
        subtypes_per_lab=2,
        n_genes=30,
        min_shared_genes=10,
        batch_size=8,
        local_epochs=1,
        rounds=3,
        draw_map=False,  # compiling UMAP takes longer than the rest of a run
        files=False,
        run_name="run",
    )


@pytest.fixture
def tiny(tiny_run: Config, tmp_path: Path) -> Config:
    """Give the same config with a folder of its own for every test."""
    return tiny_run.replace(output=str(tmp_path / "runs"))


@pytest.fixture
def unlabelled(tiny: Config) -> Config:
    """Give the tiny config without labels: no floor and no scores, so half the time."""
    return tiny.replace(label_key="", partition="iid")


@dataclass(frozen=True)
class Left:
    """What a run has left in its folder."""

    folder: Path

    @property
    def model(self) -> bytes:
        """The bytes of the model."""
        return (self.folder / "model.safetensors").read_bytes()

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The tensors of the model, by name."""
        import safetensors.numpy

        return safetensors.numpy.load(self.model)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def by_round(self) -> dict[tuple[int, str], dict[str, Any]]:
        """The same rows, by round and lab."""
        return {(row["round"], row["lab"]): row for row in self.rows}

    @property
    def scores(self) -> dict[str, Any]:
        """What is in ``scores.json``."""
        return dict(json.loads((self.folder / "scores.json").read_text()))

    @property
    def log(self) -> str:
        """The run's log."""
        return (self.folder / "run.log").read_text()


def _left_by(config: Config) -> Left:
    run = config.run
    return Left(Path(run.resume) if run.resume else Path(run.output) / run.name)


@pytest.fixture(scope="session")
def left_by() -> Callable[[Config], Left]:
    """Give what a run of a config has left, also where it failed."""
    return _left_by


@pytest.fixture(scope="session")
def lead() -> Callable[..., Left]:
    """Lead a run of the whole app, ServerApp and ClientApp, in this process."""
    from flwr.app import Context, RecordDict

    from client_app import app as client
    from server_app import app as server
    from simulations.inprocess import InProcessGrid

    def lead(
        config: Config,
        nodes: int | list[dict[str, Any]] = 2,
        *,
        app: Any = client,
        grid: type[InProcessGrid] = InProcessGrid,
        **options: Any,
    ) -> Left:
        """Run on so many simulated nodes, or on nodes of these configs; give what it left."""
        if isinstance(nodes, int):
            nodes = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_mapping()
        )
        server(grid(app, nodes, config, **options), context)
        return _left_by(config)

    return lead


@pytest.fixture(scope="session")
def undisturbed(
    tiny_run: Config,
    lead: Callable[..., Left],
    tmp_path_factory: pytest.TempPathFactory,
) -> Left:
    """Give the one run of the tiny config that others are held against; only read it."""
    return lead(tiny_run.replace(output=str(tmp_path_factory.mktemp("undisturbed"))))


@pytest.fixture(scope="session")
def change() -> Callable[..., Config]:
    """Copy a config with some options changed, validated anew."""
    return lambda config, **options: config.replace(**options)


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Give what waits for a condition, and gives what it gave."""

    def until(condition: Callable[[], Any], what: str = "what has to happen") -> Any:
        deadline = time.monotonic() + _PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.05)
        return found

    return until


# Seconds; an upper bound for anything that other processes have to do, on a machine full of others.
_PATIENCE = 1200.0


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 KiB, or skip the test where none can be mounted."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes a root of Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only_disk(full_disk: Path) -> Path:
    """Give a file system that takes no changes, or skip the test where none can be mounted."""
    command = ["mount", "-o", "remount,ro", str(full_disk)]
    subprocess.run(command, capture_output=True, check=True)
    return full_disk


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first the file that mostly waits for Ray, so that another process works meanwhile.

    Last comes one file of real processes: two deployments at once are each other's load.
    """
    order = {"test_flower.py": -1, "test_loopback.py": 1}
    items.sort(key=lambda item: order.get(item.path.name, 0))
