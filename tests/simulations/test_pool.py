"""Labs that train at the same time: same bits, and a process that is ended ends in a sentence."""

import os
import signal
import subprocess
import sys
import time

import pytest

import client_app.labs
from client_app import app as client
from fedsc.errors import RunError
from protocol.records import TRAIN
from simulations import inprocess
from simulations.inprocess import run_inprocess, worthwhile
from simulations.pool import Failed, Pool, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="processes are forked on Linux alone")


@pytest.fixture
def pool():
    made = []

    def make(work, processes=2):
        made.append(Pool(work, processes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_results_are_in_the_order_of_the_tasks(pool):
    def work(task):
        time.sleep(0.05 if task == 0 else 0)  # the first is done last
        return os.getpid(), task

    found = pool(work).map(range(6))
    assert [task for _, task in found] == list(range(6))
    assert {pid for pid, _ in found}.isdisjoint({os.getpid()})


def test_an_exception_is_the_failure_of_its_task_alone(pool):
    one = pool(lambda task: 1 / task)
    good, bad = one.map([2, 0])
    assert good == 0.5
    assert isinstance(bad, Failed)
    assert "ZeroDivisionError" in bad.traceback
    assert one.map([4]) == [0.25]


def test_a_process_that_is_killed_ends_in_a_sentence(pool):
    one = pool(lambda task: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RunError, match=r"ended with exit code -9 .*resume the run"):
        one.map([1])


@pytest.mark.slow
def test_closing_ends_a_process_at_work(pool):
    one = pool(lambda task: time.sleep(task), processes=1)
    (process,) = one._processes.values()
    next(iter(one._processes)).send(600)
    one.close()
    assert not process.is_alive()


def test_processes_end_with_the_one_that_made_them():
    """Also where it is killed and can end nobody."""
    script = """
import os, signal
from simulations.pool import Pool
pool = Pool(abs, 3)
pool.map([1, 2, 3])
print(*(process.pid for process in pool._processes.values()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    # Standard output ends, and run returns, when the last of them has ended.
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 3


def test_the_bits_are_those_of_one_process(tiny, left_by, undisturbed):
    run_inprocess(tiny, processes=3)
    left = left_by(tiny)
    assert left.model == undisturbed.model
    assert left.scores["kmeans"] == undisturbed.scores["kmeans"]


def test_cells_of_labs_that_a_first_round_leaves_out_are_prepared_before_processes_are_made(
    unlabelled, change, left_by, tmp_path, monkeypatch
):
    prepared = tmp_path / "prepared"
    original = client_app.labs.transform

    def noted(*given, **named):
        with prepared.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return original(*given, **named)

    monkeypatch.setattr(client_app.labs, "transform", noted)
    config = change(unlabelled, fraction_train=0.5, rounds=6)
    run_inprocess(config, processes=2)
    assert prepared.read_text().split() == [str(os.getpid())] * 4
    one = change(config, run_name="one")
    run_inprocess(one)
    assert left_by(config).model == left_by(one).model


@pytest.mark.slow
def test_a_resumed_run_may_have_another_number_of_processes(unlabelled, change, left_by):
    whole = change(unlabelled, run_name="whole")
    run_inprocess(whole)
    run_inprocess(change(unlabelled, rounds=2), processes=2)
    resumed = change(unlabelled, resume=str(left_by(unlabelled).folder))
    run_inprocess(resumed)
    assert left_by(resumed).model == left_by(whole).model


def test_a_lab_killed_in_the_middle_of_a_round_stops_the_run(tiny, lead):
    def dying(message, context):
        if message.metadata.message_type == TRAIN:
            os.kill(os.getpid(), signal.SIGKILL)
        return client(message, context)

    with pytest.raises(RunError, match="ended with exit code -9"):
        lead(tiny, 4, app=dying, processes=2)


def test_an_exception_in_another_process_fails_its_lab_alone(unlabelled, change, lead):
    def broken(message, context):
        if message.metadata.message_type == TRAIN and context.node_config["partition-id"] == 1:
            raise ValueError("boom")
        return client(message, context)

    left = lead(change(unlabelled, rounds=1), 4, app=broken, processes=2)
    assert "boom" in left.by_round[1, "lab-1"]["failed"]
    assert [lab for _, lab in left.by_round if "failed" not in left.by_round[1, lab]] == [
        "lab-0",
        "lab-2",
        "lab-3",
    ]


def test_few_cells_or_a_gpu_are_trained_one_after_the_other(tiny, change, monkeypatch):
    monkeypatch.setattr(inprocess.os, "sched_getaffinity", lambda process: range(3))
    many = change(tiny, local_epochs=50)  # four labs of 24 cells
    assert worthwhile(tiny) == 1
    assert worthwhile(many) == 3
    assert worthwhile(change(many, labs=2, subtypes_per_lab=2)) == 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert worthwhile(many) == 1
