"""What the run warned of, and the rounds in which labs gave nothing."""

from collections import defaultdict

from fedsc.report.parts import Section, Table
from fedsc.results import Run


def warnings(run: Run) -> Section:
    """List warnings and failed rounds, or say that there were none."""
    history = run.history
    rounds: dict[tuple[str, str], list[int]] = defaultdict(list)
    if "failed" in history:
        for row in history[history["failed"].notna()].itertuples():
            rounds[str(row.lab), str(row.failed)].append(int(row.round))
    rows = [
        (
            lab,
            str(len(failed)),
            ", ".join(map(str, failed[:10])) + (" …" if failed[10:] else ""),
            why,
        )
        for (lab, why), failed in sorted(rounds.items())
    ]
    table = Table(
        "Rounds in which a lab gave no update",
        ("lab", "rounds", "which", "why"),
        rows,
        numbers=("rounds",),
    )
    texts = [] if run.warnings else ["The run gave no warnings about its scores."]
    if not rows:
        texts.append("No lab failed in a round.")
    return Section("Warnings", texts, run.warnings, tables=[table] if rows else [])
