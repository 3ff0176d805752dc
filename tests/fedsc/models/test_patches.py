import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsc.models.patches import (
    PATCH,
    cut,
    join,
    matrix_layout,
    on_grid,
    patches_of,
    sequence_layout,
    sine_cosine,
)


@given(st.integers(1, 6), st.integers(0, 3))
def test_patches_and_matrix_round_trip(grid, cells):
    side = 4 * grid
    matrix = torch.arange(cells * side**2).view(cells, side, side)
    patches = cut(matrix)
    assert patches.shape == (cells, grid**2, PATCH)
    assert torch.equal(join(patches, side), matrix)
    assert torch.equal(cut(join(patches, side)), patches)


def test_a_patch_is_a_square_of_the_matrix():
    matrix = torch.arange(144).view(12, 12)
    assert torch.equal(cut(matrix)[5], matrix[4:8, 8:12].flatten())


@given(st.integers(1, 256))
def test_layout_holds_every_gene_once_and_no_empty_patch(n_genes):
    for layout in (matrix_layout(n_genes, 16), sequence_layout(n_genes)):
        assert torch.equal(layout.genes[layout.filled].sort().values, torch.arange(n_genes))
        assert layout.filled.any(dim=1).all()
        assert len(layout.places) == layout.n_patches == len(layout.places.unique(dim=0))


def test_patches_of_cells_are_the_patches_of_their_matrix():
    x = torch.randn(3, 256)
    layout = matrix_layout(256, 16)
    assert torch.equal(patches_of(x, layout), cut(x.view(3, 16, 16)))
    assert layout.places[6].tolist() == [1, 2]


def test_padding_is_zero_and_empty_patches_are_left_out():
    x = torch.randn(2, 70)  # rows of 16: four full rows and six genes of the fifth
    layout = matrix_layout(70, 16)
    full = torch.zeros(2, 256)
    full[:, :70] = x
    patches = cut(full.view(2, 16, 16))
    assert layout.places.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert torch.equal(patches_of(x, layout), patches[:, :6])
    assert patches[:, 6:].abs().sum() == 0


def test_sequence_patches_are_genes_in_a_row():
    x = torch.randn(2, 40)
    patches = patches_of(x, sequence_layout(40))
    assert patches.shape == (2, 3, 16)
    assert torch.equal(patches[:, 1], x[:, 16:32])
    assert torch.equal(patches[:, 2, :8], x[:, 32:])
    assert patches[:, 2, 8:].abs().sum() == 0


def test_positions_are_sines_and_cosines_of_both_coordinates():
    places = matrix_layout(256, 16).places
    positions = sine_cosine(places, 12)
    for patch, (row, column) in enumerate(places.tolist()):
        slow = []
        for place in (row, column):
            slow += [np.sin(place / 10000 ** (i / 3)) for i in range(3)]
            slow += [np.cos(place / 10000 ** (i / 3)) for i in range(3)]
        np.testing.assert_allclose(positions[patch].numpy(), slow, atol=1e-6)
    # Patches of one row share half of their channels, those of one column the other half.
    assert torch.equal(positions[4, :6], positions[7, :6])
    assert torch.equal(positions[1, 6:], positions[13, 6:])
    assert len(positions.unique(dim=0)) == 16


def test_positions_in_a_row_have_one_coordinate():
    positions = sine_cosine(sequence_layout(48).places, 8)
    np.testing.assert_allclose(positions[2, 0], np.sin(2), atol=1e-6)
    np.testing.assert_allclose(positions[2, 4], np.cos(2), atol=1e-6)


def test_values_of_patches_spread_over_the_matrix():
    layout = matrix_layout(70, 16)
    image = on_grid(np.arange(12.0).reshape(2, 6), layout.places.numpy(), 16)
    assert image.shape == (2, 16, 16)
    assert (image[1, :4, 4:8] == 7).all()
    assert (image[1, 4:8, :4] == 10).all()
    assert np.isnan(image[:, 8:]).all()
