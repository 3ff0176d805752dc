import pandas as pd

from fedsc.plots.curves import run_curves


def test_run_curves_have_a_line_per_lab_and_leave_out_what_is_not_known():
    rows = [
        {"round": 1, "lab": "a", "loss": 2.0, "d": None, "mu": 0.0},
        {"round": 1, "lab": "b", "failed": "gone"},
        {"round": 2, "lab": "a", "loss": 1.5, "d": 0.9, "mu": 0.8},
        {"round": 2, "lab": "b", "loss": 1.0, "d": None, "mu": 0.0},
    ]
    loss, d, mu = run_curves(pd.DataFrame(rows), alpha=0.7).axes
    assert [line.get_label() for line in loss.lines] == ["a", "b"]
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.5]
    assert list(d.lines[0].get_xdata()) == [2]
    assert len(d.lines) == 3  # two labs and α
    assert list(mu.lines[0].get_ydata()) == [0.0, 0.8]


def test_many_labs_have_a_median_and_no_legend():
    rows = [
        {"round": r, "lab": f"l{i}", "loss": float(i), "d": 1.0, "mu": 0.5}
        for r in (1, 2)
        for i in range(r == 1, 9)  # the first lab is missing in the first round
    ]
    loss, *_ = run_curves(pd.DataFrame(rows), alpha=None).axes
    assert loss.get_legend() is None
    assert list(loss.lines[-1].get_xdata()) == [1, 2]
    assert list(loss.lines[-1].get_ydata()) == [4.5, 4.0]


def test_a_run_without_any_update_has_empty_curves():
    rows = [{"round": 1, "lab": "a", "failed": "gone"}]
    assert not any(panel.lines for panel in run_curves(pd.DataFrame(rows), alpha=None).axes)
