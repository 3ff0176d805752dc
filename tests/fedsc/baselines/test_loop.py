import numpy as np
import pytest
import torch

from fedsc.baselines.checkpoint import Saved, load, save
from fedsc.baselines.loop import train
from fedsc.baselines.method import Settings
from fedsc.errors import RunError


def start():
    return {"a": torch.zeros(2), "count": torch.tensor([0]), "x.running_mean": torch.zeros(1)}


def descent(weights, stop=None):
    """Pull ``a`` to the number of the epoch, with an optimiser that remembers."""

    def epoch(number, descend):
        if number == stop:
            return None
        weights["count"] = weights["count"] + 1
        loss = (weights["a"] - number).square().sum()
        descend(loss)
        return float(loss.detach())

    return epoch


def adam(parameters):
    assert len(parameters) == 1  # neither counts nor statistics are trained
    return torch.optim.Adam(parameters, lr=0.1, amsgrad=True, fused=True)


@pytest.mark.parametrize(
    "optimizer_of", [adam, lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.95)]
)
def test_an_interrupted_phase_ends_with_the_same_bits(tmp_path, optimizer_of):
    whole = start()
    expected = train("t", whole, optimizer_of, descent(whole), 6, Settings(), "same")

    class Stop(KeyboardInterrupt):
        pass

    def interrupt(phase, done, total, figures):
        if done == 4:
            raise Stop

    cut = start()
    settings = Settings(checkpoint=tmp_path, progress=interrupt)
    with pytest.raises(Stop):
        train("t", cut, optimizer_of, descent(cut), 6, settings, "same")
    resumed = start()
    losses = train(
        "t", resumed, optimizer_of, descent(resumed), 6, Settings(checkpoint=tmp_path), "same"
    )
    assert losses == expected
    assert torch.equal(resumed["a"], whole["a"])
    assert int(resumed["count"]) == 6


def test_a_finished_phase_is_not_trained_again(tmp_path):
    settings = Settings(checkpoint=tmp_path)
    first = start()
    losses = train("t", first, adam, descent(first, stop=3), 10, settings, "same")
    assert len(losses) == 3
    second = start()

    def never(number, descend):
        raise AssertionError("trained again")

    assert train("t", second, adam, never, 10, settings, "same") == losses
    assert torch.equal(first["a"], second["a"])


def test_rate_is_set_before_every_epoch():
    rates, weights = [], start()
    made = []

    def sgd(parameters):
        made.append(torch.optim.SGD(parameters, lr=1.0))
        return made[0]

    def epoch(number, descend):
        rates.append(made[0].param_groups[0]["lr"])
        return 0.0

    train("t", weights, sgd, epoch, 3, Settings(), "same", rate=lambda e: 0.5**e)
    assert rates == [1.0, 0.5, 0.25]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    weights = start()
    settings = Settings(checkpoint=tmp_path)
    train("t", weights, adam, descent(weights), 1, settings, "one")
    with pytest.raises(RunError, match=r"t\.safetensors was written for other data or options"):
        train("t", start(), adam, descent(weights), 1, settings, "two")


def test_a_broken_checkpoint_is_named(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        load(path, "x", "cpu")


def test_save_and_load_round_trip(tmp_path):
    path = tmp_path / "deep" / "t.safetensors"
    assert load(path, "x", "cpu") is None
    saved = Saved({"w": torch.ones(2, 3).T}, {"0/step": torch.tensor(3.0)}, [1.5], converged=True)
    save(path, saved, "x")
    found = load(path, "x", "cpu")
    np.testing.assert_array_equal(found.weights["w"], saved.weights["w"])
    assert float(found.optimizer["0/step"]) == 3.0
    assert (found.losses, found.converged) == ([1.5], True)
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]


def test_training_uses_one_thread_and_gives_the_others_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        train(
            "t", start(), adam, lambda *_: seen.append(torch.get_num_threads()), 3, Settings(), ""
        )
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(tmp_path):
    losses = iter([1.0, float("nan")])
    with pytest.raises(RunError, match="t diverged: the loss of epoch 2 is nan; lower the"):
        train("t", start(), adam, lambda *_: next(losses), 5, Settings(checkpoint=tmp_path), "")
    assert load(tmp_path / "t.safetensors", "", "cpu").losses == [1.0]
