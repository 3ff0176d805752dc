"""Each lab's own model beside the global one."""

import pytest

from fedsc.errors import DataError
from fedsc.tensors import read
from simulations.benchmarks.own_models import measure
from simulations.inprocess import run_inprocess


@pytest.fixture
def run(tiny_run, tmp_path):
    """Run and measure, with options changed."""

    def run(**options):
        config = tiny_run.replace(output=str(tmp_path), run_name="run", draw_map=False, **options)
        run_inprocess(config)
        return measure(tmp_path / "run"), tmp_path / "run"

    return run


def test_distances_are_those_of_the_last_uploads(run):
    found, folder = run(partition="iid", labs=2)
    arrays, _ = read(folder / "checkpoint.safetensors")
    names = [
        name.removeprefix("global/")
        for name in arrays
        if name.startswith(("global/encoder", "global/projector")) and "running" not in name
    ]

    def distance(one, other):
        differences = (arrays[f"{one}/{name}"] - arrays[f"{other}/{name}"] for name in names)
        return sum(float((d.astype(float) ** 2).sum()) for d in differences) ** 0.5

    labs = ("lab lab-0", "lab lab-1")
    assert found["between"] == pytest.approx(distance(*labs))
    assert found["to_global"] == pytest.approx(sum(distance("global", lab) for lab in labs) / 2)
    assert (found["pull"], found["partition"]) == ("fedsc", "iid")


def test_the_model_of_a_lab_alone_is_the_global_one(run):
    found, _ = run(partition="iid", labs=1)
    assert found["to_global"] == 0
    assert found["between"] is None
    assert found["own"] == found["global"] == found["pooled"]["own"] == found["pooled"]["global"]


def test_a_lab_of_one_type_has_no_score_and_the_others_do(run):
    found, _ = run(subtypes_per_lab=1)
    assert found["own"] == {"ari": None, "nmi": None}
    assert 0 <= found["pooled"]["global"]["nmi"] <= 1


def test_a_run_without_models_is_refused(run):
    with pytest.raises(DataError, match="no models of labs"):
        run(method="fedpca")
