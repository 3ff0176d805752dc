import pytest


@pytest.fixture
def unlabelled(tiny):
    """Give the tiny config without labels: no floor and no scores, so half the time."""
    return tiny.replace(label_key="", partition="iid")
