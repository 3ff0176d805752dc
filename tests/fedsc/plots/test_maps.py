import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fedsc.plots.maps import draw_map, embedding_map

PLACES = np.array([[0, 0], [0, 1], [1, 0]])


def test_embedding_map_draws_every_cell_once_per_panel():
    x = np.random.default_rng(0).normal(size=(40, 2))
    groups = {"type": np.array(["t", "u"] * 20), "lab": np.array(["l"] * 40)}
    axes = embedding_map(x, groups).axes
    assert [axis.get_title() for axis in axes] == ["type (40 cells)", "lab (40 cells)"]
    assert [sum(len(c.get_offsets()) for c in axis.collections) for axis in axes] == [40, 40]


def of_groups(names, n=200):
    x = np.random.default_rng(0).normal(size=(n, 2))
    group = np.arange(n) % len(names)
    return embedding_map(x, {"group": np.array(names, dtype=object)[group]})


def on_cells(axes):
    return [text.get_text() for text in axes.texts]


def in_legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("k", [8, 20, 40])
def test_up_to_40_groups_have_colours_of_their_own_and_a_legend(k):
    names = [f"a cell type {i:02d}" for i in range(k)]
    (axes,) = of_groups(names).axes
    assert in_legend(axes) == names
    assert on_cells(axes) == []
    handles, _ = axes.get_legend_handles_labels()
    assert len({tuple(handle.get_facecolor()[0]) for handle in handles}) == k


def test_short_names_of_more_than_8_groups_stand_on_their_cells_too():
    few, many = [str(i) for i in range(8)], [str(i) for i in range(11)]
    for names, expected in ((few, []), (many, many)):
        (axes,) = of_groups(names).axes
        assert in_legend(axes) == names
        assert on_cells(axes) == expected


def test_more_than_40_groups_have_their_names_on_their_cells_and_no_two_look_alike():
    names = [f"type {i:02d}" for i in range(50)]
    (axes,) = of_groups(names).axes
    assert axes.get_legend() is None
    assert on_cells(axes) == names
    looks = {(tuple(c.get_facecolor()[0]), len(c.get_paths()[0])) for c in axes.collections}
    assert len(looks) == 50


@pytest.mark.parametrize("k", [5, 40])
def test_a_legend_lies_within_the_figure_and_takes_no_width_from_the_map(k):
    long = [f"{i:02d} a cell type with a name that has no end at all" for i in range(k)]
    figure = of_groups(long)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box, whole = axes.get_legend().get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert box.x0 >= axes.get_window_extent().x1
    assert axes.get_window_extent().width / figure.dpi > 4.5  # inches
    assert in_legend(axes)[0] == "00 a cell type with a name that…"


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


@pytest.mark.parametrize("k", [5, 11, 45])
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


def test_whole_numbers_are_named_alike_in_a_categorical():
    axes = Figure().subplots()
    draw_map(axes, np.zeros((3, 2)), pd.Categorical([1.0, 2.0, 1.0]), "batch")
    assert axes.get_legend_handles_labels()[1] == ["1", "2"]


def test_points_are_smaller_the_more_cells_there_are():
    sizes = []
    for n in (10, 5000, 100_000):
        (axes,) = embedding_map(np.zeros((n, 2)), {"one": np.full(n, "a")}).axes
        sizes.append(axes.collections[0].get_sizes()[0])
    assert sizes[0] > sizes[1] > sizes[2] > 0
