"""What the labs brought: cells that quality control left out, and genes they measured."""

from fedsc.data.coverage import WARN_BELOW
from fedsc.report.parts import MOST_LABS, Section, Table, as_option, first_labs, share
from fedsc.results import Run

_LIMITS = ("min-genes", "min-counts", "max-mito", "min-cells-per-gene")


def quality(run: Run) -> Section | None:
    """Count the cells of each lab that quality control left out, if there was any."""
    found = run.record.get("quality")
    if not found:
        return None
    rows = [
        (lab, f"{own['cells']:,}", f"{own['left-out']:,}", share(own["left-out"] / own["cells"]))
        for lab, own in sorted(found["labs"].items())[:MOST_LABS]
    ]
    head = ("lab", "cells", "left out", "share")
    texts = [
        f"Of {found['cells']:,} cells {found['kept']:,} are kept, of {found['genes']:,} genes "
        f"{found['genes-kept']:,}. Limits: "
        + ", ".join(f"{name} {as_option(found[name])}" for name in _LIMITS if name in found)
        + "."
    ]
    caption = f"Cells that quality control left out{first_labs(len(found['labs']))}"
    return Section("Quality control", texts, tables=[Table(caption, head, rows, numbers=head[1:])])


def genes(run: Run) -> Section | None:
    """Say how many of the model's genes each lab has measured."""
    labs = run.record.get("labs")
    if not labs:
        return None
    first = next(iter(labs.values()))
    wanted = first["chosen"]
    rows = [
        (lab, f"{own['genes']:,}", f"{own['measured']:,}", share(own["measured"] / max(wanted, 1)))
        for lab, own in sorted(labs.items())[:MOST_LABS]
    ]
    few = [lab for lab, own in labs.items() if own["measured"] < WARN_BELOW * wanted]
    vocabulary = run.record["vocabulary"]
    texts = [
        f"The labs agreed on {vocabulary:,} genes ({run.options['genes']} of their panels). The "
        f"model looks at the {wanted:,} of them that vary most."
    ]
    head = ("lab", "genes measured", "of the model's", "coverage")
    caption = f"Genes of each lab{first_labs(len(labs))}"
    table = Table(caption, head, rows, numbers=head[1:])
    low = [f"Below {WARN_BELOW:.0%} of the model's genes: {', '.join(few)}."] if few else []
    return Section("Genes", texts, low, tables=[table])
