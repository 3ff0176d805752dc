import errno
import os
import signal
import subprocess
import sys

import pytest

from deployment.supervisor import Patience, Program, supervised
from fedsc.errors import ConfigError

_FOREVER = "import time; print('up', flush=True); time.sleep(600)"


def _program(name, code=_FOREVER):
    return Program(name, [sys.executable, "-c", code], dict(os.environ))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_killed_is_started_again(tmp_path, until):
    with supervised(tmp_path) as processes:
        processes.start([_program("a")])
        until(lambda: (tmp_path / "a.log").read_text() == "up\n")
        first = processes.pid("a")
        os.kill(first, signal.SIGKILL)
        second = until(lambda: (pid := processes.pid("a")) != first and pid)
        assert processes.states() == {"a": "running (restarts: 1)"}
        # Both lives are in one log.
        until(lambda: (tmp_path / "a.log").read_text() == "up\nup\n")
    assert not _alive(second)


def test_while_it_is_down_it_has_no_pid(tmp_path, until):
    with supervised(tmp_path, Patience(first=1000.0, longest=1000.0)) as processes:
        processes.start([_program("a", "raise SystemExit(3)")])
        until(lambda: processes.states()["a"] == "down, starts again soon")
        assert processes.pid("a") is None


def test_each_failure_doubles_the_delay_up_to_a_bound_and_a_steady_life_starts_over():
    patience = Patience(first=1.0, longest=4.0, steady=60.0)
    failures, delays = 0, []
    for lived in (0.0, 0.0, 0.0, 0.0, 61.0, 59.0):
        failures = patience.failures(failures, lived)
        delays.append(patience.delay(failures))
    assert delays == [1.0, 2.0, 4.0, 4.0, 1.0, 2.0]


def test_a_program_that_fails_for_days_is_still_restarted():
    patience = Patience()
    assert patience.delay(10_000) == patience.longest


def test_a_process_that_fails_again_and_again_is_started_again_and_again(tmp_path, until):
    with supervised(tmp_path, Patience(first=0.01, longest=1000.0)) as processes:
        processes.start([_program("a", "raise SystemExit(3)")])
        assert until(lambda: "(restarts: 2)" in processes.states()["a"])


def test_a_restart_that_fails_is_told_and_tried_again(tmp_path, until, monkeypatch):
    original, short = subprocess.Popen, [OSError(errno.ENOMEM, "Cannot allocate memory")] * 2

    def popen(*given, **more):
        if (tmp_path / "a.log").read_bytes() and short:  # it was started before
            raise short.pop()
        return original(*given, **more)

    monkeypatch.setattr("deployment.supervisor.subprocess.Popen", popen)
    with supervised(tmp_path, Patience(first=0.01, longest=0.01)) as processes:
        processes.start([_program("a")])
        until(lambda: (tmp_path / "a.log").read_text() == "up\n")
        os.kill(processes.pid("a"), signal.SIGKILL)
        until(lambda: (tmp_path / "a.log").read_text().endswith("up\n") and not short)
        assert processes.states() == {"a": "running (restarts: 3)"}
    said = "fedsc: cannot be started again: [Errno 12] Cannot allocate memory\n"
    assert (tmp_path / "a.log").read_text() == f"up\n{said * 2}up\n"


def test_stopping_takes_along_what_a_process_started(tmp_path, until):
    child = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {_FOREVER!r}])\n"
        f"open({str(tmp_path / 'pid')!r} + '.partial', 'w').write(str(p.pid))\n"
        "import os; os.replace("
        f"{str(tmp_path / 'pid')!r} + '.partial', {str(tmp_path / 'pid')!r})\n"
        "time.sleep(600)"
    )
    with supervised(tmp_path / "logs") as processes:
        processes.start([_program("parent", child)])
        until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert _alive(pid)
    assert until(lambda: not _alive(pid) or _is_zombie(pid))


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_ignores_sigterm_is_killed(tmp_path, until):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _FOREVER
    with supervised(tmp_path, Patience(stop=0.2)) as processes:
        processes.start([_program("a", stubborn)])
        until(lambda: "up" in (tmp_path / "a.log").read_text())
        pid = processes.pid("a")
    assert not _alive(pid)


def test_all_stop_when_the_block_raises(tmp_path):
    pids = []

    def fail():
        with supervised(tmp_path) as processes:
            processes.start([_program("a"), _program("b")])
            pids.extend(processes.pid(name) for name in "ab")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(pids) == 2
    assert not any(map(_alive, pids))


@pytest.mark.parametrize("name", ["a", "../b", ""])
def test_a_name_is_a_file_name_and_given_once(tmp_path, name):
    with supervised(tmp_path) as processes:
        processes.start([_program("a")])
        with pytest.raises(ConfigError, match="taken or no name"):
            processes.start([_program(name)])
