"""Outputs that cannot be written, or are there already: the same of every command."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedsc import cli
from simulations.inprocess import run_inprocess


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    config = tiny_run.replace(
        output=str(tmp_path_factory.mktemp("made")), method="fedpca", files=True
    )
    run_inprocess(config)
    return Path(config.run.output) / "run"


@pytest.fixture
def folder(tiny_set, tmp_path):
    """Give a folder of two labs."""
    for lab in ("A", "B"):
        (tmp_path / "labs").mkdir(exist_ok=True)
        shutil.copyfile(tiny_set, tmp_path / "labs" / f"{lab}.h5ad")
    return tmp_path / "labs"


_COMMANDS = {
    "embed": ("embed", "{cells}", "--model", "{run}", "-o", "{output}/a.h5ad"),
    "embed --plot": (
        *("embed", "{cells}", "--model", "{run}"),
        *("-o", "{elsewhere}/a.h5ad", "--plot", "{output}/a.png"),
    ),
    "concat": ("concat", "{run}", "-o", "{output}/a.h5ad"),
    "report": ("report", "{run}", "-o", "{output}/a.html"),
    "check --plot": (
        *("check", "{labs}", "--min-shared-genes", "20"),
        *("--plot", "{output}/a.png"),
    ),
    "synthesize": ("synthesize", "{output}/a.h5ad", "--cells", "40", "--labs", "2"),
    "split": ("split", "{cells}", "-o", "{output}/a", "--label-key", "cell_type"),
}
_DEPLOY = ("deploy", "init", "--labs", "A", "-o", "{output}/a")


@pytest.fixture
def arguments(run, folder, tiny_set, tmp_path):
    """Give the arguments of a command that writes into a folder."""

    def fill(command, output):
        elsewhere = tmp_path / "elsewhere"
        shutil.rmtree(elsewhere, ignore_errors=True)
        elsewhere.mkdir()
        places = {"cells": tiny_set, "run": run, "labs": folder, "elsewhere": elsewhere}
        return [word.format(output=output, **places) for word in command]

    return fill


@pytest.mark.parametrize("name", _COMMANDS)
def test_what_is_there_is_replaced_by_force_alone(fedsc, arguments, tmp_path, name):
    command = arguments(_COMMANDS[name], tmp_path)
    assert fedsc(*command)[0] == 0
    (output,) = tmp_path.glob("a*")
    files = [output] if output.is_file() else sorted(output.glob("*.h5ad"))
    for file in files:
        file.write_bytes(b"mine")
    code, _, err = fedsc(*arguments(_COMMANDS[name], tmp_path))
    assert (code, "--force" in err, len(err.splitlines())) == (2, True, 1)
    assert {file.read_bytes() for file in files} == {b"mine"}
    code, _, err = fedsc(*arguments(_COMMANDS[name], tmp_path), "--force")
    assert code == 0, err
    assert b"mine" not in {file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("embed", ".h5ad"),
        ("embed --plot", ".png, .svg or .pdf"),
        ("concat", ".h5ad"),
        ("report", ".html or .htm"),
        ("check --plot", ".png, .svg or .pdf"),
        ("synthesize", ".h5ad"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".h5ad.gz", ""])
def test_a_name_that_says_another_format_is_refused_before_any_work(
    fedsc, arguments, tmp_path, name, wanted, ending
):
    place = str(tmp_path / "a")
    command = [
        f"{place}{ending}" if word.startswith(f"{place}.") else word
        for word in arguments(_COMMANDS[name], tmp_path)
    ]
    code, _, err = fedsc(*command)
    expected = f"error: {place}{ending}: the name of this output should end in {wanted}\n"
    assert (code, err) == (2, expected)
    assert not list(tmp_path.glob("a*"))


def test_the_report_of_a_run_is_its_own_to_make_anew(fedsc, run):
    assert (run / "report.html").exists()
    assert fedsc("report", run)[0] == 0


def test_a_folder_that_is_not_there_is_named_before_any_work(fedsc, arguments, tmp_path):
    code, _, err = fedsc(*arguments(_COMMANDS["embed"], tmp_path / "none"))
    assert (code, "there is no folder" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["full_disk", "read_only_disk"])
@pytest.mark.parametrize("command", [*_COMMANDS.values(), _DEPLOY], ids=" ".join)
def test_a_disk_that_takes_nothing_is_a_sentence(request, arguments, disk, command):
    place = request.getfixturevalue(disk)
    done = subprocess.run(
        [sys.executable, "-m", "fedsc.cli", *arguments(command, place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(("error: cannot write", "error: cannot make the folder"))
    words = {"full_disk": "No space left on device; free some space"}
    assert sentence.endswith(words.get(disk, "Read-only file system"))
    assert not [path for path in place.rglob("*") if path.suffix in (".partial", ".part")]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_what_the_machine_refuses_elsewhere_is_a_sentence_too(fedsc, monkeypatch, code):
    def refuse():
        raise OSError(code, "no, because", "/some/file")

    monkeypatch.setattr(cli, "app", refuse)
    assert fedsc("anything") == (1, "", "error: /some/file: no, because\n")
