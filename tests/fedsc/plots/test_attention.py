import io

import numpy as np

from fedsc.plots.attention import attention_map

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
