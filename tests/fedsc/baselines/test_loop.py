import numpy as np
import pytest
import torch

from fedsc.baselines.checkpoint import load
from fedsc.baselines.loop import Phase, train
from fedsc.baselines.method import Settings
from fedsc.errors import RunError


def start():
    return {"a": torch.zeros(2), "count": torch.tensor([0]), "x.running_mean": torch.zeros(1)}


def adam(parameters):
    assert len(parameters) == 1  # neither counts nor statistics are trained
    return torch.optim.Adam(parameters, lr=0.1, amsgrad=True, fused=True)


def phase(n_epochs, optimizer_of=adam, *, n_cells=5, batch_size=5, rate=None):
    return Phase("t", ("t", "batches"), n_cells, batch_size, n_epochs, optimizer_of, rate)


def descent(weights, stop=None):
    """Pull ``a`` to the number of the epoch, with an optimiser that remembers."""

    def loss_of_epoch(number):
        if number == stop:
            return None
        weights["count"] = weights["count"] + 1
        return lambda rows: (weights["a"] - number).square().sum()

    return loss_of_epoch


def run(weights, n_epochs, of="same", *, optimizer_of=adam, stop=None, **settings):
    losses = descent(weights, stop)
    return train(phase(n_epochs, optimizer_of), weights, losses, Settings(**settings), of)


@pytest.mark.parametrize(
    "optimizer_of", [adam, lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.95)]
)
def test_an_interrupted_phase_ends_with_the_same_bits(tmp_path, optimizer_of):
    whole = start()
    expected = run(whole, 6, optimizer_of=optimizer_of)
    assert len(expected.seconds) == 6

    def interrupt(name, done, total, figures):
        assert (name, total) == ("t", 6)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(start(), 6, optimizer_of=optimizer_of, checkpoint=tmp_path, progress=interrupt)
    resumed = run(start(), 6, optimizer_of=optimizer_of, checkpoint=tmp_path)
    assert resumed.losses == expected.losses
    assert len(resumed.seconds) < 6
    assert torch.equal(resumed.weights["a"], whole["a"])
    assert int(resumed.weights["count"]) == 6


def test_a_finished_phase_is_not_trained_again(tmp_path):
    first = run(start(), 10, stop=3, checkpoint=tmp_path)
    assert len(first.losses) == 3

    def never(number):
        raise AssertionError("trained again")

    again = train(phase(10), start(), never, Settings(checkpoint=tmp_path), "same")
    assert (again.losses, again.seconds) == (first.losses, [])
    assert torch.equal(first.weights["a"], again.weights["a"])


def test_every_cell_is_met_once_an_epoch_in_another_order_every_time():
    seen, weights = {}, start()

    def loss_of_epoch(number):
        def loss(rows):
            seen.setdefault(number, []).extend(rows)
            return weights["a"].sum() + len(rows)

        return loss

    plan = phase(3, lambda p: torch.optim.SGD(p, lr=0.0), n_cells=11, batch_size=4)
    trained = train(plan, weights, loss_of_epoch, Settings(), "")
    assert all(sorted(rows) == list(range(11)) for rows in seen.values())
    assert seen[0] != seen[1] != seen[2]
    # A mean over cells: batches of 4, 4 and 3.
    np.testing.assert_allclose(trained.losses, (4 * 4 + 4 * 4 + 3 * 3) / 11)


def test_rate_is_set_before_every_step():
    rates, made, weights = [], [], start()

    def sgd(parameters):
        made.append(torch.optim.SGD(parameters, lr=1.0))
        return made[0]

    def loss(rows):
        return weights["a"].sum()

    step = torch.optim.SGD.step

    def watched(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watched)
        plan = phase(2, sgd, n_cells=4, batch_size=2, rate=lambda epoch, share: epoch + share)
        train(plan, weights, lambda number: loss, Settings(), "")
    assert rates == [0.5, 1.0, 1.5, 2.0]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    run(start(), 1, "one", checkpoint=tmp_path)
    with pytest.raises(RunError, match=r"t\.safetensors was written for other data or options"):
        run(start(), 1, "two", checkpoint=tmp_path)


def test_training_uses_one_thread_and_gives_the_others_back():
    before, seen, weights = torch.get_num_threads(), [], start()
    torch.set_num_threads(2)

    def loss(rows):
        seen.append(torch.get_num_threads())
        return weights["a"].sum()

    try:
        train(phase(1), weights, lambda number: loss, Settings(), "")
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(tmp_path):
    weights, factors = start(), iter([1.0, float("nan")])

    def loss_of_epoch(number):
        return lambda rows: weights["a"].sum() * 0 + next(factors)

    with pytest.raises(RunError, match="t diverged: the loss of epoch 2 is nan; lower the"):
        train(phase(5), weights, loss_of_epoch, Settings(checkpoint=tmp_path), "")
    assert load(tmp_path / "t.safetensors", "").losses == [1.0]
