import logging
import sys

import pytest
from flwr.app import Context, RecordDict

from fedsc.errors import ConfigError
from server_app import app
from server_app.main import _warn_of_shadow_environment


def test_a_refused_option_is_one_line_of_the_log(caplog):
    """`flwr log` shows what Flower logs; beside it there would be a traceback alone."""
    context = Context(1, 1, {}, RecordDict(), {"rounds": "many"})
    with pytest.raises(ConfigError):
        app(None, context)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("the run is refused: option rounds = 'many'")


def test_a_second_copy_of_the_dependencies_is_told_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(sys, "path", ["/home/me/.flwr/runtime-envs/42/lib/site-packages", "/usr"])
    with caplog.at_level(logging.WARNING, logger="flwr"):
        _warn_of_shadow_environment()
    (record,) = caplog.records
    assert "/home/me/.flwr/runtime-envs/42" in record.getMessage()
    assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_nothing_is_said_of_ones_own_environment(monkeypatch, caplog):
    monkeypatch.setattr(sys, "path", ["/home/me/.venv/lib/site-packages"])
    _warn_of_shadow_environment()
    assert not caplog.records
