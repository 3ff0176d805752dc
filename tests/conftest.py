"""What tests share: where real data lie, how hypothesis runs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
