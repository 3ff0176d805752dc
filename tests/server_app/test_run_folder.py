import json

import pytest

from fedsc.config import Config
from fedsc.errors import ConfigError
from server_app.run_folder import RunFolder, new_name


def _open(tmp_path, **options):
    return RunFolder.open(Config(output=str(tmp_path), **options))


def test_names_tell_method_set_and_seed():
    name = new_name(Config(method="a.b:C", dataset="/x/cells.h5ad", seed=7))
    assert name.endswith("-a.b.C-cells-seed7")


def test_metrics_of_rounds_to_be_done_again_are_forgotten(tmp_path):
    folder = _open(tmp_path, run_name="r")
    folder.append_metrics([{"round": r, "lab": lab} for r in (1, 2, 3) for lab in "ab"])
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "la')  # killed in the middle of a line
    folder.forget_metrics_after(2)
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 1, 2, 2]


def test_resume_needs_a_run_folder(tmp_path):
    with pytest.raises(ConfigError, match="no run folder is there"):
        _open(tmp_path, resume=str(tmp_path / "nothing"))


def test_resume_enters_the_folder(tmp_path):
    first = _open(tmp_path, run_name="r")
    assert _open(tmp_path, resume=str(first.path)).path == first.path


def test_log_is_kept_with_the_reason_of_a_failure(tmp_path):
    folder = _open(tmp_path, run_name="r")
    with pytest.raises(RuntimeError), folder.logged():
        raise RuntimeError("no space on the moon")
    assert "no space on the moon" in (folder.path / "run.log").read_text()
