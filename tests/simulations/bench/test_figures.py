"""Figures of suites: every number is where it belongs."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from simulations.bench import figures
from simulations.bench.cell import run_cell
from simulations.bench.figures import bars, dots, draw, maps, pulls, sweep
from simulations.bench.suite import Data, Line, Suite, plan


def rows(**columns):
    n = max(len(v) for v in columns.values())
    fixed = {"line": ["a"] * n, "at": ["{}"] * n, "control": [False] * n, "dataset": ["x"] * n}
    return pd.DataFrame(fixed | columns)


def test_bars_have_a_bar_per_score_and_a_dot_per_seed():
    figure = bars(rows(ari=[0.2, 0.4], nmi=[0.5, 0.7]), {})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([30, 60])
    assert sorted(x for line in axes.lines for x in line.get_xdata()) == pytest.approx(
        [20, 40, 50, 70]
    )


def test_bars_have_a_diamond_where_a_paper_has_a_figure():
    figure = bars(
        rows(ari=[0.2], nmi=[0.5]), {("a", "x"): (33.0, 44.0, 0.0), ("b", "x"): (1, 2, 3)}
    )
    diamonds = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [33.0, 44.0]
    assert legend_of(figure) == ["ARI", "NMI", "a seed", "published"]


def test_a_legend_names_no_diamond_where_there_is_none():
    elsewhere = {("b", "x"): (1, 2, 3), ("a", "y"): (1, 2, 3)}
    assert legend_of(bars(rows(ari=[0.2], nmi=[0.5]), elsewhere)) == ["ARI", "NMI", "a seed"]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_of_a_grid_have_bars_and_dots_of_their_own():
    at = [json.dumps({"rounds": r}) for r in (1, 1, 2, 2)]
    found = rows(at=at, ari=[0.1, 0.3, 0.5, 0.7], nmi=[0.5] * 4)
    (axes,) = bars(found, {("a (rounds = 2)", "x"): (33.0, 44.0, 0.0)}).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "a (rounds = 1)",
        "a (rounds = 2)",
    ]
    assert [bar.get_width() for bar in axes.patches][:2] == pytest.approx([20, 60])
    (axes,) = dots(found).axes
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([20, 60])


def test_bars_leave_room_for_a_line_without_scores():
    figure = bars(
        rows(line=["a", "b"], ari=[0.2, None], nmi=[0.3, None]).astype(
            {"ari": float, "nmi": float}
        ),
        {},
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert len(axes.patches) == 2


def test_dots_are_means_over_seeds_one_a_set():
    found = rows(line=["a", "a", "a", "b"], ari=[0.2, 0.4, 0.9, 0.5], nmi=[0.5] * 4)
    found["dataset"] = ["x", "x", "y", "y"]
    (axes,) = dots(found).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {"a": [[pytest.approx(30), 0], [90, 1]], "b": [[50, 1]]}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["x", "y"]


def test_a_sweep_is_a_line_of_means_over_its_axis():
    at = [json.dumps({"rounds": r, "cover": c}) for r in (1, 2) for c in ("drop", "all")] * 2
    figure = sweep(
        rows(at=at, ari=[0.1, 0.2, 0.3, 0.4, 0.3, 0.4, 0.5, 0.6], nmi=[0.5] * 8), "rounds"
    )
    left = figure.axes[0]
    drawn = {c.get_label(): c.lines[0].get_xydata() for c in left.containers}
    assert set(drawn) == {"a, cover = drop", "a, cover = all"}
    np.testing.assert_allclose(drawn["a, cover = drop"], [[1, 20], [2, 40]])
    np.testing.assert_allclose(drawn["a, cover = all"], [[1, 30], [2, 50]])


def test_two_sweeps_in_one_suite_do_not_mix_and_share_the_point_of_the_defaults():
    at = [json.dumps({"rounds": 1}), json.dumps({"rounds": 2})]
    at += [json.dumps({"rounds": 1, "local-epochs": e}) for e in (6, 7)]
    found = rows(at=at, ari=[0.1, 0.2, 0.3, 0.4], nmi=[0.5] * 4)
    over_rounds = sweep(found, "rounds").axes[0].containers
    assert [c.lines[0].get_xydata().tolist() for c in over_rounds] == [[[1, 10], [2, 20]]]
    over_epochs = sweep(found, "local-epochs").axes[0].containers
    assert [c.lines[0].get_xydata().tolist() for c in over_epochs] == [[[5, 10], [6, 30], [7, 40]]]


def test_pulls_follow_d_and_mu():
    metrics = pd.DataFrame(
        {"round": [1, 2, 2, 3, 3], "d": [None, 0.2, 0.4, 0.6, 0.8], "mu": [0, 1.0, 1.0, 0.5, 0.7]}
    )
    left, right = pulls({"fedsc": metrics}).axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[2, 0.3], [3, 0.7]])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[2, 1.0], [3, 0.6]])


def test_maps_have_a_panel_per_method_and_show_every_cell():
    rng = np.random.default_rng(0)
    types = np.array(["a", "b"] * 10)
    figure = maps({name: (rng.normal(size=(20, 5)), types) for name in ("one", "two")})
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    assert [sum(len(c.get_offsets()) for c in axes.collections) for axes in panels] == [20, 20]


def test_maps_show_the_cells_that_runs_were_of(tiny_set, tmp_path, monkeypatch):
    """Also where labs have encoders of their own, and quality control left cells out."""
    options = {
        **{"labs": 2, "partition": "iid", "rounds": 1, "n-genes": 30, "min-shared-genes": 10},
        **{"batch-size": 8, "local-epochs": 1, "draw-map": False},
        **{"local-norm": True, "min-counts": "240"},
    }
    suite = Suite(
        title="T",
        about="A",
        reference="ours",
        federated=options,
        datasets=(Data(name=str(tiny_set), label_key="cell_type"),),
        lines=(Line(name="ours", method="fedsc"),),
        seeds=1,
        figures=("maps",),
    )
    planned = plan(suite)
    run_cell(planned[0][1], tmp_path)
    drawn = {}
    monkeypatch.setattr(figures, "maps", lambda panels: drawn.update(panels) or Figure())
    draw(suite, planned, rows(ari=[0.1], nmi=[0.2]), tmp_path, tmp_path)
    counts = np.asarray(anndata.read_h5ad(tiny_set).X.sum(axis=1)).ravel()
    assert 0 < (counts < 240).sum() < 96
    (embedding, types) = drawn["ours"]
    assert len(embedding) == len(types) == (counts >= 240).sum()
    assert set(types) == {f"type{i}" for i in range(4)}


@pytest.mark.slow
def test_attention_is_drawn_from_what_the_first_finished_mask_sc_kept(tmp_path):
    suite = Suite(
        title="T",
        about="A",
        reference="ours",
        datasets=(Data(name="pbmc68k_reduced"),),
        lines=(Line(name="pca", method="pca"), Line(name="ours", method="mask-sc")),
        seeds=2,
        figures=("attention",),
    )
    planned = plan(suite)
    table = rows(ari=[0.1], nmi=[0.2])
    assert draw(suite, planned, table, tmp_path, tmp_path) == []
    for place, cell in planned:
        folder = tmp_path / cell.key
        folder.mkdir()
        (folder / "row.json").write_text("{}")
        if place.line == "ours":
            places = np.array([[i, j] for i in range(16) for j in range(16)])
            seen = np.full((700, 256), 1 / 256, dtype=np.float32)
            np.savez(folder / "embedding.npz", attention_mean=seen, patch_places=places)
    (drawn,) = draw(suite, planned, table, tmp_path, tmp_path)
    assert drawn.name == "attention-pbmc68k_reduced.png"
    assert drawn.stat().st_size > 1000
