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
