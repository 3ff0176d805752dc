"""Whether labs of different techniques were brought together, why, and how they mixed."""

from fedsc.report.parts import Section, number
from fedsc.results import Run


def integration(run: Run) -> Section | None:
    """Say what was asked for, what was done and why; ``None`` where nothing was asked for."""
    about = run.record.get("integration") or {"asked": "none"}
    if about["asked"] == "none":
        return None
    texts = [
        f"Asked for: integrate = {about['asked']}. "
        + ("Labs were brought together." if about["done"] else "Labs were left as they were."),
        f"Why: {about['reason']}.",
    ]
    if "mixing_after" in about:  # tried, whatever came of it
        settled = "settled" if about["converged"] else "had not settled"
        texts.append(
            f"Mixing of labs is {number(about['mixing_before'])} before and "
            f"{number(about['mixing_after'])} after Harmony: 0 = no cluster has cells of two labs, "
            f"1 = every cluster has them in the pool's proportions. Harmony {settled} after "
            f"{about['rounds']} rounds."
        )
    return Section("Integration", texts)
