"""How much memory a file needs and how much there is, asked before anything is loaded."""

import os
from pathlib import Path

_CGROUPS = (  # limit, use, and the name of what the kernel can drop from that use
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
_PER_BYTE = 4  # what reading a file whole takes, with its copies


def available_memory(root: Path = Path("/")) -> int | None:
    """Give the bytes that can still be taken, or ``None`` where the system does not say.

    The smaller of what the machine has left (Linux: ``/proc/meminfo``; elsewhere what is
    installed) and what the container's limit leaves.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are mounted.
    """
    machine = _numbers(root / "proc/meminfo").get("MemAvailable:")
    known = [machine * 1024 if machine is not None else _installed(), _container(root)]
    return min((size for size in known if size is not None), default=None)


def memory_problem(needed: int) -> str | None:
    """Say that ``needed`` bytes are more than there are; ``None`` when they fit."""
    available = available_memory()
    if available is None or needed <= available:
        return None
    return (
        f"reading it needs about {needed / 2**30:,.1f} GiB of memory and {available / 2**30:,.1f} "
        "GiB are free: use a machine with more, or split the file into several with fewer cells"
    )


def refuse_large(path: Path, most: int | None = None) -> None:
    """Refuse what is no file (to read a pipe would wait for ever) or larger than can be read.

    Parameters
    ----------
    path
        Of a file that is read whole.
    most
        Bytes it may have; ``None`` = as many as memory takes.

    Raises
    ------
    ValueError
        Saying what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is no file")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ValueError(f"{path.name} has {size} bytes, more than {most}")
    if problem := memory_problem(size * _PER_BYTE):
        raise ValueError(problem)


def _container(root: Path) -> int | None:
    for limit_name, use_name, droppable_name in _CGROUPS:
        folder = root / "sys/fs/cgroup"
        try:
            limit = int((folder / limit_name).read_text())
            use = int((folder / use_name).read_text())
        except (OSError, ValueError):  # no such controller, or the limit is the word "max"
            continue
        droppable = _numbers((folder / use_name).with_name("memory.stat")).get(droppable_name, 0)
        return max(0, limit - use + droppable)
    return None


def _installed() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX, or the name is unknown
        return None


def _numbers(file: Path) -> dict[str, int]:
    """Read lines of a name, a number and perhaps a unit."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
