import pytest

from deployment import init


@pytest.fixture
def federation(tmp_path):
    """A deployment of two labs, nothing of it running."""
    return init.create(tmp_path / "federation", ["A", "B"], hosts=["fed.example.org", "10.0.0.7"])
