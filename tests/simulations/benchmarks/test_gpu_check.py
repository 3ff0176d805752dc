"""The check that a person with a GPU runs, rehearsed without one."""

import json

import pytest
import torch

from fedsc.config import Config
from simulations.benchmarks import gpu_check
from simulations.benchmarks.gpu_check import (
    METHODS,
    Watch,
    labs_of,
    main,
    operations_and_waits,
    per_step,
)

_MOST = 240  # operations of a stacked step, whatever the method and the number of labs


@pytest.fixture(scope="module")
def options(tiny_set):
    return {
        "dataset": str(tiny_set), "n_genes": 20, "min_shared_genes": 10, "batch_size": 8,
        "local_epochs": 1, "labs": 8, "partition": "iid",
    }  # fmt: skip


@pytest.fixture(scope="module")
def cells(options):
    return labs_of(Config.of(**options))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_eight_labs_does_as_much_as_one_of_one_lab_and_waits_for_nothing(
    method, options, cells
):
    config = Config.of(**options, method=method)
    one = {"lab-0": cells["lab-0"]}
    alone, all_labs = (per_step(config, own, "cpu", operations_and_waits) for own in (one, cells))
    assert len(cells) == 8
    # Each lab shuffles its cells once an epoch, on the host; an epoch has two steps.
    assert all_labs[0] == alone[0] + 7 / 2 < _MOST
    assert alone[1] == all_labs[1] == 0


def test_the_watch_sees_who_waits():
    x = torch.arange(4.0)
    with Watch() as watch:
        int(x.sum())
        x[x > 1]
        x.view(2, 2)
    assert watch.waits == 2
    assert watch.operations >= 4
    with Watch() as watch:
        (x + 1).mul_(2)
    assert (watch.operations, watch.waits) == (2, 0)


def test_the_check_is_rehearsed_on_a_cpu(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "METHODS", ("fedsc", "fedmoco-v1"))
    output = tmp_path / "found.json"
    given = json.dumps({**options, "labs": 3})
    code = main(["--device", "cpu", "--rounds", "2", "--options", given, "-o", str(output)])
    found = json.loads(output.read_text())
    assert code == 0
    assert found["correct"]
    assert sum(found["labs"].values()) == 96
    assert set(found["against_cpu"]) == {"fedsc", "fedmoco-v1"}
    assert all(0 < difference < 1e-4 for difference in found["against_cpu"].values())
    assert found["graph_against_eager"] == {}  # there is no CUDA
    assert set(found["ways"]) == {"stacked", "one lab after the other"}
    shown = capsys.readouterr().out
    assert "one lab after the other" in shown
    assert "at most 1e-04" in shown


def test_a_wrong_result_is_an_error(options, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "METHODS", ("fedsc",))
    monkeypatch.setattr(gpu_check, "farthest", lambda one, other: float("nan"))
    monkeypatch.setattr(gpu_check, "rounds", lambda *given: {"seconds": 0.0})
    given = json.dumps({**options, "labs": 2})
    output = str(tmp_path / "found.json")
    assert main(["--device", "cpu", "--options", given, "-o", output]) == 1


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no GPU" in said.err
