"""How a run in a deployment stands: what Flower knows of it and what its log says.

The log is ``log.jsonl`` in the run folder, on the server's machine. Where it cannot be read, the
words of ``flwr log`` are.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployment import flower
from deployment.layout import read_nodes
from fedsc.errors import RunError
from fedsc.run_files import LOG
from fedsc.run_log import Entry, read_entries

# server_app/strategy.py writes these; a test holds both together.
# The words of a line, by the names their fields have in log.jsonl.
_LINES = (
    r"round (?P<round>\d+)/(?P<rounds>\d+): loss (?P<loss>\S+), .*, "
    r"(?P<valid>\d+) of (?P<asked>\d+) labs",
    r"round (?P<round>\d+): lab (?P<lab>\S+) failed: (?P<reason>.*)",
    r"rounds (?P<first>\d+) to (?P<rounds>\d+), ",
    r"phase: (?P<phase>.+)",
    r"lab (?P<lab>\S+) could not write its results: (?P<reason>.*); it can do so",
    r"going on without (?P<without>lab .+)",
    r"no longer left out: (?P<back>.+)",
    r"lab (?P<lab>\S+) has its results in a copy of its own file(?:: (?P<file>.+))?",
    r"k-means: iteration (?P<iteration>\d+)",
    r"run folder: (?P<folder>.+)",
)
_LAB = re.compile(r"(?:^|; )lab (\S+): ")


def _reasons(text: str) -> dict[str, str]:
    """Part what is said of several labs: ``lab A: why; lab B: why``."""
    _, *told = _LAB.split(text)
    return dict(zip(told[::2], told[1::2], strict=True))


_KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("round", "rounds", "first", "valid", "asked", "iteration"), int),
    "loss": float,
    "without": _reasons,
    "back": lambda labs: labs.split(", "),
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Progress:
    """What a run's log says.

    Attributes
    ----------
    round, rounds
        Rounds done and planned; ``rounds`` is 0 until training begins.
    first
        First round of this run; more than 1 when it was resumed.
    loss
        Mean loss of the last round; ``None`` before the first.
    labs
        How many labs gave a valid update in the last round, and how many were asked.
    failed
        Labs that failed in the last round, and why.
    out
        Labs that take no part as the run stands, and why: they failed in the last round, were left
        out of the phase, could not write their results or were refused. By lab, or ``node N``.
    folder
        The run's folder on the server; empty until it is made.
    kmeans
        Iterations of the clustering that follows the rounds; 0 before.
    phase
        What the run is doing; empty until it says so.
    files
        Name of the file with each lab's results, in that lab's own folder; by lab.
    source
        The file that was read; empty where it was the words of ``flwr log``.
    """

    round: int = 0
    rounds: int = 0
    first: int = 1
    loss: float | None = None
    labs: tuple[int, int] | None = None
    failed: Mapping[str, str] | None = None
    folder: str = ""
    kmeans: int = 0
    phase: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    out: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class LabState:
    """A lab as the server sees it.

    Attributes
    ----------
    name
        Its name, or its node's number where the name is not known here.
    present
        Whether it is online.
    last_seen
        When it was last known to be online, UTC; ``None`` when it never was.
    out
        Why it takes no part in the run as it stands; empty when it does.
    """

    name: str
    present: bool
    last_seen: datetime | None
    out: str = ""


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes
    ----------
    run_id
        Flower's number of the run; empty when there is none.
    state
        Flower's word for it, e.g. ``running``, ``finished:failed``; or ``no run``.
    details
        Why it failed, where Flower says so.
    elapsed
        Seconds since it began.
    seconds_left
        Estimate for the training that is left; ``None`` when there is nothing to estimate from.
    progress
        What its log says.
    labs
        All labs the server knows.
    server
        Flower's name of the server, and its address.
    """

    run_id: str
    state: str
    details: str
    elapsed: float
    seconds_left: float | None
    progress: Progress
    labs: tuple[LabState, ...]
    server: str

    def to_json(self) -> dict[str, Any]:
        """Give plain values; times as ISO 8601."""
        found = asdict(self)
        for lab in found["labs"]:
            lab["last_seen"] = None if lab["last_seen"] is None else lab["last_seen"].isoformat()
        return found


def read_status(
    connection: str = "", run_id: str = "", *, home: Path, now: datetime | None = None
) -> Status:
    """Ask a SuperLink how its newest run stands, or a certain one.

    Parameters
    ----------
    connection
        Flower's name of the SuperLink; empty = its default.
    run_id
        Which run; empty = the newest.
    home
        ``FLWR_HOME``, where the connection and the nodes' names are looked up.
    now
        Time with time zone; default: the clock.

    Raises
    ------
    RunError
        If there is no such SuperLink, it does not answer or knows no such run. None is started.
    """
    server = flower.superlink(connection, home)
    where = [connection] if connection else []
    which = ["--run-id", run_id] if run_id else []
    runs = flower.ask("ls", *where, *which, home=home)["runs"]
    if run_id and not runs:
        raise RunError(f"no run {run_id} is known there; flwr ls lists them")
    listed = flower.ask("supernode", "list", *where, home=home)["nodes"]
    names, asked_at = read_nodes(home), now or datetime.now(UTC)
    if not runs:
        labs = lab_states(listed, names, asked_at)
        return Status("", "no run", "", 0.0, None, Progress(), labs, server)
    run = max(runs, key=lambda run: str(run["pending-at"]))
    progress = _named(_progress(str(run["run-id"]), where, home), names)
    labs = lab_states(listed, names, asked_at, progress.out)
    elapsed = float(run["elapsed"])
    running = not str(run["status"]).startswith("finished")
    return Status(
        run_id=str(run["run-id"]),
        state=str(run["status"]),
        details="" if run["status-details"] == "N/A" else str(run["status-details"]),
        elapsed=elapsed,
        seconds_left=seconds_left(progress, elapsed) if running else None,
        progress=progress,
        labs=labs,
        server=server,
    )


def _progress(run_id: str, where: list[str], home: Path) -> Progress:
    """Read ``log.jsonl``: of the deployment that ``home`` lies in, or where ``flwr log`` says."""
    runs = home.parent.glob(f"server/runs/*/{LOG}")
    for path in sorted(runs, key=_changed, reverse=True):
        if (found := read_json_log(path, run_id)) is not None:
            return found
    told = read_log(flower.text("log", run_id, *where, "--show", home=home))
    found = read_json_log(Path(told.folder) / LOG, run_id) if told.folder else None
    return told if found is None else found


def _named(progress: Progress, names: Mapping[str, str]) -> Progress:
    """Give nodes that are out the names of their labs, where these are known."""
    lab_of = {f"node {node}": lab for lab, node in names.items()}
    return replace(progress, out={lab_of.get(who, who): why for who, why in progress.out.items()})


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_json_log(path: Path, run_id: str) -> Progress | None:
    """Read what a run folder's ``log.jsonl`` says of a run of Flower's.

    Parameters
    ----------
    path
        The file; a run that was resumed has several starts in it, each a run of Flower's.
    run_id
        Flower's number of the run.

    Returns
    -------
    Progress or None
        ``None`` if the file cannot be read, or is of another run.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            starts: list[list[Entry]] = []
            for entry in read_entries(lines):
                if "flower_run" in entry.fields:
                    starts.append([])
                if starts:
                    starts[-1].append(entry)
    except OSError:
        return None
    own = [start for start in starts if start[0].fields["flower_run"] == run_id]
    return _told((entry.fields for entry in own[-1]), str(path)) if own else None


def _told(lines: Iterable[Mapping[str, Any]], source: str) -> Progress:
    found: dict[str, Any] = {}
    failed: dict[int, dict[str, str]] = {}
    files: dict[str, str] = {}
    of_round: dict[str, str] = {}  # who failed in the round under way, or in the last one
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}  # by node
    for said in lines:
        if "valid" in said:
            found |= {key: said[key] for key in ("round", "rounds", "loss")}
            found["labs"] = said["valid"], said["asked"]
            of_round = dict(failed.get(said["round"], {}))
        elif {"round", "lab", "reason"} <= said.keys():
            of_round[said["lab"]] = said["reason"]
            failed.setdefault(said["round"], {})[said["lab"]] = said["reason"]
        elif {"lab", "reason"} <= said.keys():  # it has no results in its file
            left_out[said["lab"]] = said["reason"]
        elif "without" in said:
            left_out |= said["without"]
        elif "back" in said:
            left_out = {lab: why for lab, why in left_out.items() if lab not in said["back"]}
        elif {"node", "reason"} <= said.keys():
            refused[f"node {said['node']}"] = said["reason"]
        elif {"node", "cells"} <= said.keys():  # it is in
            refused.pop(f"node {said['node']}", None)
        elif "first" in said:
            found |= {"first": said["first"], "round": said["first"] - 1, "rounds": said["rounds"]}
        elif "file" in said:
            files[said["lab"]] = said["file"]
            left_out.pop(said["lab"], None)
        else:
            if "phase" in said:
                of_round = {}
            found |= {key: said[key] for key in ("phase", "folder") if key in said}
            if "iteration" in said:
                found["kmeans"] = said["iteration"]
    return Progress(
        **found,
        failed=_of_last_round(failed, found),
        files=files,
        out=refused | of_round | left_out,
        source=source,
    )


def _of_last_round(
    failed: Mapping[int, Mapping[str, str]], found: Mapping[str, Any]
) -> Mapping[str, str]:
    last = found.get("round", 0)
    # A round that could not be finished is one past the last.
    return failed.get(last + 1, failed.get(last, {}))


def read_log(log: str) -> Progress:
    """Read a run's log, as ``flwr log`` shows it or as ``run.log`` keeps it."""
    return _told(map(_said, _COLOURS.sub("", log).splitlines()), "")


def _said(line: str) -> dict[str, Any]:
    for pattern in _LINES:
        if match := re.search(pattern, line):
            said = match.groupdict(default="")
            return {name: _KINDS.get(name, str.strip)(text) for name, text in said.items()}
    return {}


def seconds_left(progress: Progress, elapsed: float) -> float | None:
    """Estimate the training left from the pace so far, start-up included."""
    done = progress.round - progress.first + 1
    if done < 1:
        return None
    return (progress.rounds - progress.round) * elapsed / done


def lab_states(
    nodes: list[dict[str, Any]],
    names: Mapping[str, str],
    now: datetime,
    out: Mapping[str, str] | None = None,
) -> tuple[LabState, ...]:
    """Read Flower's list of nodes.

    Parameters
    ----------
    nodes
        As ``flwr supernode list --format json`` gives them.
    names
        Node ids by lab, as far as they are known.
    now
        When that list was asked for.
    out
        Why labs take no part in the run, by lab; default: all do.
    """
    lab_of = {node: lab for lab, node in names.items()}
    states = []
    for node in nodes:
        if node["status"] == "unregistered":
            continue
        present = node["status"] == "online"
        name = lab_of.get(node["node-id"], f"node {node['node-id']}")
        seen = now if present else _time(node["offline-at"])
        states.append(LabState(name, present, seen, (out or {}).get(name, "")))
    return tuple(sorted(states, key=lambda state: state.name))


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
