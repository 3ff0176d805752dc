"""The start of Flower and Ray on a busy machine; tests with both are in test_flower.py."""

import pytest

from deployment import flower
from fedsc.errors import RunError
from simulations.flower import run_flower

SLOW = (
    "flwr run failed: Starting local SuperLink on 127.0.0.1:39091...\n"
    "Error: Failed to start local\nSuperLink within 15s. See logs at x.log."
)


@pytest.fixture
def superlink(monkeypatch):
    """Stand in for Flower: a SuperLink that is too slow so many times, and how runs end."""
    state = {"slow": 0, "refusal": "", "started": 0, "end": {"status": "finished:completed"}}

    def ask(command, *arguments):
        if command == "ls":
            return {"runs": [state["end"]]}
        state["started"] += 1
        if state["started"] <= state["slow"]:
            raise RunError(SLOW)
        if state["refusal"]:
            raise RunError(state["refusal"])
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


def test_ray_that_does_not_start_is_told_in_one_sentence_with_the_remedy(tiny, superlink):
    details = "Simulation failed with exception: An error was encountered. Ending simulation."
    superlink["end"] = {"status": "finished:failed", "status-details": details}
    with pytest.raises(RunError, match=r"^Ray, in which .*--engine inprocess"):
        run_flower(tiny)


def test_why_a_run_failed_is_told_in_its_own_words(tiny, superlink):
    superlink["end"] = {"status": "finished:failed", "status-details": "none.h5ad: no such file"}
    with pytest.raises(RunError, match=r"^none.h5ad: no such file$"):
        run_flower(tiny)


def test_ray_gets_time_to_start_and_a_user_s_own_limit_stays(monkeypatch):
    name = "RAY_agent_register_timeout_ms"
    monkeypatch.delenv(name, raising=False)
    assert int(flower.environment()[name]) == 120_000
    monkeypatch.setenv(name, "7")
    assert flower.environment()[name] == "7"
