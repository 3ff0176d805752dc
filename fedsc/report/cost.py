"""What the run cost: time and traffic of each phase, questions put to the labs."""

from fedsc.report.parts import Section, Table, number
from fedsc.results import Run
from fedsc.run_log import phases, times_resumed


def cost(run: Run) -> Section | None:
    """Say how long each phase took and what its messages carried; ``None`` where nobody knows."""
    found = phases(run.log)
    texts, tables = [], []
    if found:
        columns: dict[str, list[float | None]] = {
            "seconds": [phase.seconds for phase in found.values()],
            "MiB to labs": [_mib(phase.to_labs) for phase in found.values()],
            "MiB from labs": [_mib(phase.from_labs) for phase in found.values()],
        }
        of = {name: values for name, values in columns.items() if values.count(None) < len(values)}
        rows = [
            (name, *(number(column[i], 1) for column in of.values()))
            for i, name in enumerate(found)
        ]
        known = [[v for v in column if v is not None] for column in of.values()]
        rows.append(("all", *(number(sum(column), 1) for column in known)))
        caption = "Time and traffic of each phase" if len(of) > 1 else "Time of each phase"
        tables.append(Table(caption, ("phase", *of), rows, numbers=tuple(of)))
        if times_resumed(run.log):
            texts.append(
                "The run was resumed: times and traffic are those of all its parts together, "
                "without the time between them."
            )
        if len(of) > 1:
            texts.append(
                "Traffic is what messages carried, of all labs together: arrays, texts and "
                "numbers. What a network adds around them is not counted."
            )
    if asked := run.record.get("questions"):
        of_floor = (run.record.get("floor") or {}).get("questions") or {}
        both = (
            {"for the run": asked, "for the floor": of_floor} if of_floor else {"questions": asked}
        )
        counts = [
            (about, *(str(of.get(about, 0)) for of in both.values()))
            for about in dict.fromkeys([*asked, *of_floor])
        ]
        counts.append(("all", *(str(sum(of.values())) for of in both.values())))
        caption, head = "Questions put to every lab", ("about", *both)
        if times_resumed(run.log):
            caption += ", since the run was resumed"
        tables.append(Table(caption, head, counts, numbers=tuple(both)))
    return Section("Time and traffic", texts, tables=tables) if tables else None


def _mib(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / 2**20
