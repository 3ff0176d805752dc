"""A SuperNode that can look for messages more often than Flower's, which waits three seconds.

``fedsc-supernode`` takes the arguments of ``flower-supernode`` and is that program. If the
variable ``FEDSC_POLL`` holds a number of seconds, none of Flower's waits for a message or for a
reply is longer. They are numbers in Flower's source, so this changes a module of Flower's while it
runs, and is off by default. A Flower whose module looks otherwise is left as it is, with a
sentence.
"""

import inspect
import os
import re
import sys
import time
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace

POLL = "FEDSC_POLL"
"""Environment variable with seconds between two looks at most; unset or empty = Flower's own."""

_COMMAND = "flower-supernode"
_MODULE = "flwr.supernode.start_client_internal"
_FLOWERS = 3  # seconds between two looks for a message; half a second for a reply
_LEAST = 0.05


def main() -> None:
    """Run ``flower-supernode`` with this program's arguments."""
    if wanted := os.environ.get(POLL):
        ask_every(seconds(wanted), import_module(_MODULE))
    sys.argv[0] = _COMMAND
    (command,) = entry_points(group="console_scripts", name=_COMMAND)
    sys.exit(command.load()())


def seconds(wanted: str) -> float:
    """Read a number of seconds, from 0.05 to Flower's own 3; end the program at any other."""
    try:
        number = float(wanted)
    except ValueError:
        number = 0.0
    if not _LEAST <= number <= _FLOWERS:
        sys.exit(f"{POLL} = '{wanted}': should be seconds, from {_LEAST} to {_FLOWERS}")
    return number


def ask_every(poll: float, module: ModuleType) -> bool:
    """Let a module of Flower's wait no longer than ``poll`` seconds.

    Returns
    -------
    bool
        Whether it could be done: the module waits three seconds in one place, and takes nothing
        of ``time`` but ``sleep``.
    """
    source = inspect.getsource(module)
    taken = set(re.findall(r"\btime\.(\w+)", source))
    if source.count(f"time.sleep({_FLOWERS})") != 1 or taken != {"sleep"}:
        print(f"{POLL} is not used: this Flower waits otherwise", file=sys.stderr)  # noqa: T201
        return False

    def sleep(length: float) -> None:
        time.sleep(min(poll, length))

    module.time = SimpleNamespace(sleep=sleep)  # type: ignore[attr-defined]
    return True
