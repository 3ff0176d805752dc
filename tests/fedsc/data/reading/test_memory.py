"""Memory is counted before a file is loaded."""

from pathlib import Path

import pytest

from fedsc.data.reading import memory
from fedsc.data.reading.memory import available_memory, memory_problem

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4096 kB\nHugePages_Total: 0\n"}


def test_linux_says_what_is_available(tmp_path):
    assert available_memory(write(tmp_path, MEMINFO)) == 4096 * 1024


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("", ("memory.max", "memory.current", "inactive_file")),
        (
            "memory/",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_may_hold_less_than_the_machine(tmp_path, folder, names):
    limit, use, droppable = names
    group = f"sys/fs/cgroup/{folder}"
    files = {
        f"{group}{limit}": "1000000\n",
        f"{group}{use}": "400000\n",
        f"{group}memory.stat": f"anon 5\n{droppable} 150000\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 750_000


def test_an_unlimited_container_holds_what_the_machine_has(tmp_path):
    files = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "7\n"}
    assert available_memory(write(tmp_path, MEMINFO | files)) == 4096 * 1024


def test_systems_without_proc_count_what_is_installed(tmp_path, monkeypatch):
    sizes = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__, raising=False)
    assert available_memory(tmp_path) == 40_960


def test_systems_that_say_nothing_are_trusted(tmp_path, monkeypatch):
    monkeypatch.delattr(memory.os, "sysconf", raising=False)
    assert available_memory(tmp_path) is None
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert memory_problem(10**18) is None


def test_the_problem_names_both_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GIB)
    assert memory_problem(3 * GIB) is None
    sentence = memory_problem(5 * GIB + 1)
    assert sentence is not None
    assert "about 5.0 GiB" in sentence
    assert "3.0 GiB are free" in sentence
