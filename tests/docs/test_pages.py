"""Every command and block of code on the site's pages for readers is run, or says why not.

A block is told what to do by a comment on the line before it:

``<!-- not run: REASON -->``
    is left out.
``<!-- file: NAME -->``
    is written to a file of that name.
``<!-- background until: WORDS -->``
    keeps running while the later blocks do, which wait for these words of it.
``<!-- data: NAME -->``
    has a real set in its folder; without that set the page is skipped.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PAGES = sorted(page for part in ("start", "tutorials") for page in (DOCS / part).glob("*.md"))
_BLOCK = re.compile(
    r"(?:<!-- (?P<told>.*?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.S
)


@dataclass
class Block:
    """A block of a page: what the comment before it says of it, its language, its code."""

    kind: str
    rest: str
    language: str
    code: str

    @property
    def is_python(self):
        return self.language == "python" and self.kind in ("", "data")


def blocks_of(page):
    """List a page's blocks; Python goes on where the block before ended, as in a notebook."""
    blocks = []
    for told, language, code in _BLOCK.findall(page.read_text()):
        kind, _, rest = told.partition(": ")
        block = Block(kind, rest, language, code)
        if blocks and block.is_python and not kind and blocks[-1].is_python:
            blocks[-1].code += code
        else:
            blocks.append(block)
    return blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page):
    blocks = blocks_of(page)
    assert {block.kind for block in blocks} <= {"", "not run", "file", "background until", "data"}
    assert all(block.rest.strip() for block in blocks if block.kind)


LONG = {"researcher", *(page.stem for page in (DOCS / "tutorials").glob("*.md"))}  # they train


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.long) if p.stem in LONG else p for p in PAGES],
    ids=lambda page: page.stem,
)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, real_data):
    with ExitStack() as stack:
        for block in blocks_of(page):
            # A page's reader is in a clone; the test is in a folder of its own.
            code = block.code.replace("flwr run .", f"flwr run {CHECKOUT}")
            if block.kind == "not run":
                continue
            if block.kind == "file":
                (tmp_path / block.rest).write_text(code)
                continue
            if block.kind == "data":
                (tmp_path / f"{block.rest}.h5ad").symlink_to(real_data(block.rest))
            if block.kind == "background until":
                stack.enter_context(in_background(tmp_path, code, block.rest))
            elif block.is_python:
                run(tmp_path, f"{sys.executable} - <<'PYTHON'\n{code}\nPYTHON")
            else:
                run(tmp_path, code)


def environment(folder):
    """What a block finds: this environment's commands, and what earlier blocks have exported."""
    exported = folder / ".exported"
    own = (
        dict(line.split("=", 1) for line in exported.read_text().splitlines())
        if exported.exists()
        else {}
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "MPLBACKEND": "agg", "COLUMNS": "80"} | own


def run(folder, script):
    keep = "\nenv | grep -E '^(PYTHONPATH|FLWR_[A-Z_]+)=' > .exported || true\n"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script + keep],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"


@contextmanager
def in_background(folder, script, words):
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", f"exec {script}"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        said = []
        for line in running.stdout:
            said.append(line)
            if words in line:
                break
        try:
            assert words in "".join(said), "".join(said)
            yield
        finally:
            running.send_signal(signal.SIGTERM)
