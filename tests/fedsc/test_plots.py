import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fedsc.plots import (
    attention_map,
    draw_composition,
    draw_map,
    draw_markers,
    embedding_map,
    run_curves,
)

PLACES = np.array([[0, 0], [0, 1], [1, 0]])


def drawn(figure):
    """The images of a figure, row by row."""
    return [np.ma.filled(a.images[0].get_array(), np.nan) for a in figure.axes if a.images]


def test_panels_hold_the_mean_and_single_cells_on_the_gene_matrix():
    attention = np.array([[0.5, 0.25, 0.25], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6]])
    figure = attention_map(attention, PLACES, 8, np.array(["b", "a", "a"]), examples=2)
    mean_a, first_a, second_a, mean_b, only_b = drawn(figure)
    assert first_a.shape == (8, 8)
    np.testing.assert_allclose(first_a[:4, :4], 0.1)
    np.testing.assert_allclose(first_a[:4, 4:], 0.4)
    np.testing.assert_allclose(first_a[4:, :4], 0.5)
    assert np.isnan(first_a[4:, 4:]).all()
    np.testing.assert_allclose(mean_a, (first_a + second_a) / 2)
    np.testing.assert_allclose(mean_b, only_b)
    assert figure.axes[0].get_ylabel() == "a (2 cells)"
    assert figure.axes[3].get_ylabel() == "b (1 cells)"


def test_all_panels_share_one_scale():
    attention = np.array([[0.9, 0.1, 0.0], [0.2, 0.4, 0.4]])
    figure = attention_map(attention, PLACES, 8, np.array([0, 1]))
    limits = {a.images[0].get_clim() for a in figure.axes if a.images}
    assert limits == {(0.0, np.quantile(attention, 0.99))}


def test_patches_in_a_row_are_a_strip():
    figure = attention_map(np.array([[0.3, 0.7]]), np.array([[0], [1]]), 0, np.array([0]))
    np.testing.assert_allclose(drawn(figure)[0], [[0.3, 0.7]])


def test_figure_can_be_saved():
    file = io.BytesIO()
    attention_map(np.full((2, 3), 1 / 3), PLACES, 8, np.array([0, 0])).savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")


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


def test_embedding_map_draws_every_cell_once_per_panel():
    x = np.random.default_rng(0).normal(size=(40, 2))
    groups = {"type": np.array(["t", "u"] * 20), "lab": np.array(["l"] * 40)}
    axes = embedding_map(x, groups).axes
    assert [axis.get_title() for axis in axes] == ["type (40 cells)", "lab (40 cells)"]
    assert [sum(len(c.get_offsets()) for c in axis.collections) for axis in axes] == [40, 40]


def test_up_to_8_groups_have_a_legend_and_more_their_names_on_the_map():
    x = np.random.default_rng(0).normal(size=(44, 2))
    few, many = np.arange(44) % 8, np.arange(44) % 11
    one, other = embedding_map(x, {"few": few.astype(str), "many": many.astype(str)}).axes
    assert [text.get_text() for text in one.get_legend().get_texts()] == list("01234567")
    assert len(one.texts) == 0
    assert other.get_legend() is None
    assert [text.get_text() for text in other.texts] == [str(i) for i in range(11)]
    looks = {(tuple(c.get_facecolor()[0]), len(c.get_paths()[0])) for c in other.collections}
    assert len(looks) == 11  # no two groups look alike


def test_numbers_are_one_scatter_with_a_bar_of_colours():
    x = np.random.default_rng(0).normal(size=(120, 2))
    values = {"share": pd.Series(x[:, 0]), "depth": np.arange(120), "batch": np.arange(120.0) % 3}
    share, depth, batch, *bars = embedding_map(x, values).axes
    assert len(bars) == 2
    for axes, expected in ((share, x[:, 0]), (depth, np.arange(120))):
        (cells,) = axes.collections
        np.testing.assert_array_equal(cells.get_array(), expected)
        assert len(axes.texts) == 0
        assert axes.get_legend() is None
    assert [text.get_text() for text in batch.get_legend().get_texts()] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (pd.Categorical(["a", "b", None, None, "a"]), ["a", "b", "left out", "no value"]),
        ([str(i) for i in range(5)], ["0", "1", "3", "4", "left out"]),
        ([0.5, 0.1, 0.7, np.nan, 0.2], ["left out", "no value"]),
    ],
)
def test_cells_left_out_are_grey_and_no_group(values, named):
    x = np.arange(10.0).reshape(5, 2)
    axes = Figure().subplots()
    draw_map(axes, x, pd.Series(values), "of cells", np.arange(5) == 2)
    assert axes.get_title() == "of cells (4 cells)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == named
    (grey,) = (c for c in axes.collections if c.get_label() == "left out")
    np.testing.assert_array_equal(grey.get_offsets(), [[4, 5]])


@pytest.mark.parametrize("k", [5, 11])
def test_a_group_has_one_colour_whatever_groups_the_picture_shows(k):
    def colours(codes):
        column = pd.Categorical.from_codes(codes, [str(i) for i in range(k)])
        axes = Figure().subplots()
        draw_map(axes, np.zeros((len(codes), 2)), column, "cluster")
        return {
            handle.get_label(): tuple(handle.get_facecolor()[0])
            for handle in axes.get_legend_handles_labels()[0]
        }

    whole, part = colours(list(range(k))), colours([0, 2, 4])
    assert part == {name: whole[name] for name in ("0", "2", "4")}
    assert len(whole) == k


def test_genes_that_are_not_higher_are_no_markers():
    table = pd.DataFrame({"cluster": [0, 0, 1], "gene": list("abc"), "score": [2.0, 0.0, 0.0]})
    panels = list(Figure().subplots(1, 2))
    draw_markers(panels, table, 8)
    named = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in panels]
    assert named == [["a"], []]


def test_points_are_smaller_the_more_cells_there_are():
    sizes = []
    for n in (10, 5000, 100_000):
        (axes,) = embedding_map(np.zeros((n, 2)), {"one": np.full(n, "a")}).axes
        sizes.append(axes.collections[0].get_sizes()[0])
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_composition_is_shares_of_each_lab():
    table = pd.DataFrame([[30, 10], [1, 3]], index=["a", "b"], columns=["0", "1"])
    axes = Figure().subplots()
    draw_composition(axes, table)
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0.25, 0.75]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a (40)", "b (4)"]
    assert axes.get_xlabel() == "share of the lab's cells"
