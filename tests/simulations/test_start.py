"""The start of Flower and Ray on a busy machine; tests with both are in test_flower.py."""

import tomllib
from pathlib import Path

import pytest

from deployment import flower
from fedsc.errors import RunError
from simulations.flower import run_flower

DONE = {"status": "finished:completed"}
SLOW = (
    "flwr run failed: Starting local SuperLink on 127.0.0.1:39091...\n"
    "Error: Failed to start local\nSuperLink within 15s. See logs at x.log."
)


@pytest.fixture
def superlink(monkeypatch):
    """Stand in for Flower: a SuperLink that is too slow so many times, and how runs end."""
    state = {"slow": 0, "refusal": "", "started": 0, "ends": [DONE], "resumed": []}

    def ask(command, *arguments):
        if command == "ls":
            return {"runs": [state["ends"].pop(0)]}
        state["started"] += 1
        if state["started"] <= state["slow"]:
            raise RunError(SLOW)
        if state["refusal"]:
            raise RunError(state["refusal"])
        options = Path(arguments[arguments.index("--run-config") + 1]).read_text(encoding="utf-8")
        state["resumed"].append(tomllib.loads(options)["resume"])
        return {"run-id": 1}

    monkeypatch.setattr(flower, "ask", ask)
    monkeypatch.setattr("simulations.flower.subprocess.run", lambda *_, **__: None)
    return state


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_superlink_that_is_slow_to_start_is_started_again(tiny, superlink, slow):
    superlink["slow"] = slow
    run_flower(tiny)
    assert superlink["started"] == slow + 1


def test_one_that_never_starts_is_told_in_one_sentence_with_the_remedy(tiny, superlink):
    superlink["slow"] = 99
    with pytest.raises(RunError, match=r"did not start within 15 s, 3 times.*--engine inprocess"):
        run_flower(tiny)
    assert superlink["started"] == 3


def test_another_refusal_is_told_at_once(tiny, superlink):
    superlink["refusal"] = "flwr run failed: no such option"
    with pytest.raises(RunError, match="no such option"):
        run_flower(tiny)
    assert superlink["started"] == 1


def test_a_run_whose_log_breaks_off_is_followed_to_its_end(tiny, superlink, monkeypatch):
    superlink["ends"] = [{"status": "running"}, {"status": "running"}, DONE]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    run_flower(tiny)
    assert not superlink["ends"]


RAY = {
    "status": "finished:failed",
    "status-details": "Simulation failed with exception: An error was encountered. "
    "Ending simulation.",
}


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_run_in_which_ray_did_not_start_goes_on(tiny, superlink, left_by, crashes):
    folder = left_by(tiny).folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")  # the server's app was there, no lab
    superlink["ends"] = [RAY] * crashes + [DONE]
    run_flower(tiny)
    assert superlink["resumed"] == [""] + [str(folder)] * crashes


def test_ray_that_never_starts_is_told_in_one_sentence_with_the_remedy(tiny, superlink, left_by):
    folder = left_by(tiny).folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    superlink["ends"] = [RAY] * 9
    with pytest.raises(RunError, match=r"^Ray, in which .*--engine inprocess"):
        run_flower(tiny)
    assert len(superlink["resumed"]) == 3


def test_a_run_in_which_ray_crashed_later_is_not_started_again(tiny, superlink, left_by):
    folder = left_by(tiny).folder
    folder.mkdir(parents=True)
    for name in ("config.json", "preprocessing.json"):
        (folder / name).write_text("{}")
    superlink["ends"] = [RAY, DONE]
    with pytest.raises(RunError, match=r"^Ray, in which .* crashed"):
        run_flower(tiny)


@pytest.mark.slow
def test_a_run_that_ended_before_a_lab_answered_can_be_gone_on_with(tiny, change, lead, left_by):
    """As it is when Ray does not start."""

    def dead(message, context):
        raise MemoryError

    with pytest.raises(RunError, match="no lab can take part"):
        lead(tiny, app=dead)
    left = left_by(tiny)
    assert not (left.folder / "preprocessing.json").exists()
    assert (lead(change(tiny, resume=str(left.folder), rounds=1)).folder / "scores.json").exists()


def test_why_a_run_failed_is_told_in_its_own_words(tiny, superlink):
    superlink["ends"] = [{"status": "finished:failed", "status-details": "none.h5ad: no such file"}]
    with pytest.raises(RunError, match=r"^none.h5ad: no such file$"):
        run_flower(tiny)
