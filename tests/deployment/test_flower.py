import io
import subprocess

import pytest

from deployment import flower
from deployment.status import read_status
from fedsc.errors import RunError


@pytest.fixture
def flwr(monkeypatch):
    """Answer as a ``flwr`` that says this and exits so."""

    def says(stdout, returncode=0, stderr=""):
        def run(command, **options):
            assert command[0] == "flwr"
            assert options["env"]["FLWR_TELEMETRY_ENABLED"] == "0"
            return subprocess.CompletedProcess(command, returncode, stdout, stderr)

        monkeypatch.setattr(flower.subprocess, "run", run)

    return says


def test_json_is_found_after_notices(flwr):
    flwr('a notice\n{"success": true, "runs": []}')
    assert flower.ask("ls") == {"success": True, "runs": []}


def test_a_refusal_is_told_in_one_line(flwr):
    flwr('{"success": false, "error-message": "Using x\\n\\n[code: 23] in use."}', 1)
    with pytest.raises(RunError, match=r"^flwr supernode failed: Using x \[code: 23\] in use\.$"):
        flower.ask("supernode", "register")


def test_what_is_no_json_is_told(flwr):
    flwr("", 1, "Traceback: it broke")
    with pytest.raises(RunError, match="it broke"):
        flower.ask("ls")


def test_a_silent_server_is_told(monkeypatch):
    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(flower.subprocess, "run", run)
    with pytest.raises(RunError, match="did not end within 120 s"):
        flower.text("ls")


def test_the_home_is_given_only_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_HOME", "/mine")
    assert flower.environment()["FLWR_HOME"] == "/mine"
    assert flower.environment(tmp_path)["FLWR_HOME"] == str(tmp_path)
    assert flower.environment()["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        (None, "", "config.toml cannot be read"),
        ("[superlink", "", "config.toml cannot be read"),
        ('[superlink]\ndefault = "a"\n', "", "names no SuperLink 'a'; it names: none"),
        ('[superlink.a]\naddress = "h:1"\n', "b", "names no SuperLink 'b'; it names: a"),
        ('[superlink.a]\naddress = ":local:"\n', "a", "one of this machine .* and does not run"),
    ],
)
def test_no_superlink_is_started_to_be_asked(monkeypatch, tmp_path, config, name, words):
    def refuse(*_, **__):
        raise ConnectionRefusedError

    monkeypatch.setattr(flower.socket, "create_connection", refuse)
    monkeypatch.setattr(flower.subprocess, "run", lambda *_, **__: pytest.fail("flwr was called"))
    if config is not None:
        (tmp_path / "config.toml").write_text(config)
    with pytest.raises(RunError, match=words) as told:
        read_status(name, home=tmp_path)
    assert "FLWR_HOME" in str(told.value)
    assert "fedsc run" in str(told.value)


def test_the_superlink_that_is_asked_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(flower.socket, "create_connection", lambda *_, **__: io.BytesIO())
    (tmp_path / "config.toml").write_text(
        '[superlink]\ndefault = "a"\n[superlink.a]\naddress = "h:1"\n'
        '[superlink.b]\naddress = ":local:"\n'
    )
    assert flower.superlink("", tmp_path) == "a (h:1)"
    assert flower.superlink("b", tmp_path).startswith("b (127.0.0.1:")
