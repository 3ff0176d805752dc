"""What a run's folder says, read back."""

import json

import pytest

from fedsc.results import load


@pytest.fixture
def run(tmp_path):
    """A run whose scores are written by hand, without clusters."""
    graph, floor = {"clusters": 3, "ari": 0.5}, {"graph": {"ari": 0.5}, "pooled": {"ari": 0.2}}
    record = {"graph": graph, "kmeans": None, "pooled": {"ari": 0.3}, "floor": floor}
    about = {"labs": {"a": {"cells": 9, "left-out": 0}}, "integration": {"done": False}}
    (tmp_path / "config.json").write_text(json.dumps({"method": "fedsc", "rounds": 3}))
    (tmp_path / "scores.json").write_text(json.dumps(record | about))
    return load(tmp_path)


def test_the_history_of_a_run_that_writes_just_now_has_its_whole_lines(run):
    rows = [{"round": 1, "lab": lab, "loss": 2.0} for lab in "AB"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "metrics.jsonl").write_text(lines + '{"round": 2, "lab": "A", "lo')
    assert run.history.to_dict("records") == rows


def test_a_run_that_is_watched_shows_what_came_since(run):
    whole = (run.folder / "scores.json").read_text()
    (run.folder / "scores.json").unlink()
    watched = load(run.folder)
    assert (watched.finished, len(watched.scores), watched.warnings) == (False, 0, [])
    (run.folder / "scores.json").write_text(whole)
    assert len(watched.scores) == 4
    assert watched.record == run.record
    (run.folder / "scores.json").write_text(whole.replace("0.5", "0.75"))
    assert watched.scores["ari"].max() == 0.75


def test_training_has_helped_where_its_clusters_are_above_the_floor(run):
    assert run.training_helped("pooled") is True
    assert run.training_helped("graph") is False  # as without it
    assert run.training_helped("kmeans") is None
    assert list(run.scores["way"]) == ["graph", "pooled", "graph", "pooled"]
