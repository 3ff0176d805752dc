"""A node's labs train together where there is a GPU; here the CPU goes by another name."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from client_app import main, stacked
from client_app.stacked import train_stacked
from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix
from fedsc.errors import RunError
from fedsc.stacked import Stack
from simulations.benchmarks.gpu_check import first_weights

_DEVICE = "cpu:0"  # not "cpu", so labs train stacked


def _cells(n):
    values = np.random.default_rng(n).normal(size=(n, 12)).astype(np.float32)
    ones = np.ones(12, dtype=np.float32)
    return CellMatrix(csr_matrix(values), ones, ones, 10.0, np.ones(12, dtype=bool))


class _Lab:
    def __init__(self, name, n):
        self.name, self._cells = name, _cells(n)

    def cells(self, preprocessing, scale):
        return self._cells


@pytest.fixture
def labs():
    stacked._stack.cache_clear()
    yield [_Lab("A", 20), _Lab("B", 9), _Lab("C", 13)]
    stacked._stack.cache_clear()


@pytest.fixture
def said(monkeypatch):
    """Give what is logged."""
    lines = []
    monkeypatch.setattr(
        stacked, "log", lambda level, text, *given, **named: lines.append(text % given)
    )
    return lines


def _train(labs, kept=lambda lab: {}, round_=1, **options):
    config = Config.of(batch_size=8, local_epochs=1, **options)
    weights = first_weights(config, {"A": _cells(9)})
    starts = {lab.name: weights for lab in labs}
    return train_stacked(labs, config, starts, kept, None, round_, _DEVICE)


def test_labs_are_put_on_the_device_once(labs, said, monkeypatch):
    made = []
    monkeypatch.setattr(
        stacked, "Stack", lambda *given, **named: made.append(1) or Stack(*given, **named)
    )
    for round_ in (1, 2):
        found = _train(labs, round_=round_)
        assert {lab: update.n_cells for lab, (update, _) in found.items()} == {
            "A": 20, "B": 9, "C": 13,
        }  # fmt: skip
        assert all(seconds > 0 for _, seconds in found.values())
    assert len(made) == 1
    assert len(_train(labs[:2])) == 2
    assert len(made) == 2  # others take part
    assert said == []


def test_a_lab_that_cannot_be_prepared_is_left_out(labs, said):
    def kept(lab):
        if lab.name == "B":
            raise RunError("damaged")
        return {}

    labs[2].cells = lambda preprocessing, scale: 1 / 0
    assert set(_train(labs, kept)) == {"A"}
    assert len(said) == 2
    assert _train(labs[1:], kept) == {}


def test_why_labs_train_one_after_the_other_is_said_once(labs, said):
    for round_ in (1, 2):
        assert _train(labs, round_=round_, optimizer="adamw") == {}
    assert len(said) == 1
    assert said[0].startswith("labs train one after the other: adamw")
    assert _train(labs, method="simulations.readings.joint_views:OBJECTIVE") == {}
    assert said[1] == "labs train one after the other: the objective has no stacked form"


def test_what_fails_stacked_is_left_to_each_lab_alone(labs, said, monkeypatch):
    def fail(self, *given, **named):
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "train", fail)
        assert _train(labs) == {}
    assert said == ["labs train one after the other in round 1:"]
    assert len(_train(labs, round_=2)) == 3


def test_a_run_with_a_gpu_trains_stacked_and_answers_the_same(
    unlabelled, change, lead, monkeypatch
):
    rounds = []

    def watched(labs, config, starts, kept, preprocessing, round_, device):
        before = {lab.name: kept(lab) for lab in labs}
        rounds.append((round_, sorted(starts), all(before.values())))
        return train_stacked(labs, config, starts, kept, preprocessing, round_, device)

    config = change(unlabelled, rounds=2)
    alone = lead(change(config, run_name="alone"), 2)
    with monkeypatch.context() as patch:
        patch.setattr(main, "_device", lambda: _DEVICE)
        patch.setattr(stacked, "train_stacked", watched)
        together = lead(change(config, run_name="together"), 2)
    # Two nodes with two labs each; in the second round with the targets they kept.
    assert rounds == [
        (round_, labs, round_ > 1)
        for round_ in (1, 2)
        for labs in (["lab-0", "lab-2"], ["lab-1", "lab-3"])
    ]
    assert together.by_round.keys() == alone.by_round.keys()
    for where, row in together.by_round.items():
        assert row.keys() == alone.by_round[where].keys()
        assert row["cells"] == alone.by_round[where]["cells"]
        assert row["loss"] == pytest.approx(alone.by_round[where]["loss"], rel=0.2)  # other masks
    assert together.model != alone.model
    assert together.weights.keys() == alone.weights.keys()
