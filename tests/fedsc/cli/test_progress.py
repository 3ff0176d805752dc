import io
import json

import pytest
from rich.console import Console

from fedsc.cli.progress import RunProgress

ROWS = [
    {"round": 1, "lab": lab, "loss": loss, "cells": 10, "d": None, "mu": 0.0}
    for lab, loss in (("A", 3.0), ("B", 2.0))
]
LOG = ["10:00 INFO lab A: 10 cells", "10:01 INFO round 1/2: loss 2.5, 2 of 2 labs"]

# As client_app/main.py and server_app/finish.py write them.
OF_EVERY_LAB = [
    "10:02 INFO lab A: results are in /runs/x/labs/A.h5ad",
    "10:02 INFO lab A has its results in a copy of its own file: A.h5ad",
]


@pytest.fixture
def show(tmp_path):
    """Show a run of one round, whose files were there before when it is resumed."""

    def shown(*, terminal, earlier=""):
        (tmp_path / "run.log").write_text(earlier)
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=30, color_system=None)
        with RunProgress(tmp_path, 2, console):
            with (tmp_path / "run.log").open("a") as log:
                lines = [*LOG, *OF_EVERY_LAB]
                log.write("".join(f"{line}\n" for line in lines) + "10:02 INFO half a li")
            rows = "".join(json.dumps(row) + "\n" for row in ROWS)
            (tmp_path / "metrics.jsonl").write_text(rows)
        return screen.getvalue()

    return shown


def test_a_terminal_has_a_bar_and_the_log_but_for_the_rounds(show):
    screen = show(terminal=True)
    assert screen.count(LOG[0]) == 1
    assert LOG[1] not in screen
    assert "results" not in screen
    assert "1/2" in screen


def test_a_file_has_the_log_and_nothing_else(show):
    assert show(terminal=False, earlier="09:00 INFO before\n") == "\n".join([*LOG, ""])


def test_rounds_that_a_resumed_run_drops_and_does_again_are_shown_from_the_first(tmp_path):
    """The server cuts the file while it is being followed, then writes on."""
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps(ROWS[0] | {"round": n}) + "\n" for n in range(1, 7)]
    metrics.write_text("".join(lines))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    with RunProgress(tmp_path, 9, console) as progress:
        metrics.write_text("".join(lines[:4]))
        progress.show()
        metrics.write_text("".join(lines[:5]))
    assert "5/9" in screen.getvalue()
