"""What becomes of the measurement when the run dies."""

from types import SimpleNamespace

import pytest

from deployment import flower
from fedsc.config import Config
from fedsc.errors import RunError
from simulations.bench import deployed


def test_a_run_that_dies_without_a_word_ends_the_measurement(monkeypatch, tmp_path):
    said = {
        "run": {"run-id": 7},
        "ls": {"runs": [{"status": "finished:failed", "status-details": "No heartbeat"}]},
    }
    monkeypatch.setattr(flower, "ask", lambda command, *_, **__: said[command])
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(deployed, "time", clock)
    monkeypatch.setattr(deployed, "_PAUSE", 10.0)
    deployment = SimpleNamespace(root=tmp_path, name="speed", flwr_home=tmp_path)
    options = Config.of(output=str(tmp_path), run_name="speed")
    with pytest.raises(RunError, match="the deployed run failed: No heartbeat"):
        deployed._looks(deployment, options)
