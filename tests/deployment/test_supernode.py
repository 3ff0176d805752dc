"""A SuperNode that looks for messages more often: the waits of the pinned Flower."""

import subprocess
import sys
import time
from importlib import import_module, reload

import pytest

from deployment import supernode


@pytest.fixture
def flowers():
    module = import_module("flwr.supernode.start_client_internal")
    yield module
    reload(module)


def test_the_pinned_flower_waits_no_longer_than_it_is_told(flowers, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert supernode.ask_every(0.2, flowers)
    for seconds in (3, 0.5, 0.1):
        flowers.time.sleep(seconds)
    assert slept == [0.2, 0.2, 0.1]


@pytest.mark.parametrize(
    "source",
    ["", "time.sleep(3)\ntime.sleep(3)\n", "time.sleep(3)\nnow = time.monotonic()\n"],
)
def test_another_flower_is_left_as_it_is_in_words(tmp_path, monkeypatch, capsys, source):
    (tmp_path / "another_flower.py").write_text(f"import time\n{source}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    module = import_module("another_flower")
    try:
        assert not supernode.ask_every(0.2, module)
        assert module.time is time
    finally:
        del sys.modules["another_flower"]
    assert "FEDSC_POLL is not used" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["soon", "0", "-1", "nan", "inf", "3.5"])
def test_other_than_seconds_end_the_program_in_words(wanted):
    with pytest.raises(SystemExit, match=f"FEDSC_POLL = '{wanted}': should be seconds"):
        supernode.seconds(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("poll", ["", "0.2"])
def test_it_is_flower_s_program(poll, monkeypatch):
    monkeypatch.setenv("FEDSC_POLL", poll)
    main = "import sys; from deployment.supernode import main; sys.argv[0] = 'x'; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "usage: flower-supernode" in done.stdout
    assert "FEDSC_POLL" not in done.stderr
