import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from fedsc.federated.map import learn_map
from fedsc.federated.micro import ANSWERS, MicroCentres, learn_micro, weigh
from fedsc.federated.query import ask_locally

pytestmark = [
    pytest.mark.slow,  # UMAP is compiled when first used
    pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning"),
]


def cloud(seed, cells=300, d=8, types=4, far=4.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(cells) % types
    return far * rng.normal(size=(types, d))[labels] + rng.normal(size=(cells, d)), labels


def micro_of(*parts):
    return learn_micro(ask_locally(parts, lambda x, asked: ANSWERS[asked.name](x, asked)), 0)


@pytest.fixture(scope="module")
def mapped():
    x, labels = cloud(0)
    micro = micro_of(x)
    coordinates = learn_map(micro, 0)
    return x, labels, coordinates, weigh(micro, x) @ coordinates


def test_cells_stand_beside_cells_of_their_type(mapped):
    _, labels, _, places = mapped
    near = NearestNeighbors(n_neighbors=10).fit(places).kneighbors(return_distance=False)
    assert np.mean(labels[near] == labels[:, None]) > 0.97


def test_neighbours_in_the_embedding_are_near_in_the_map(mapped):
    x, _, _, places = mapped
    near = NearestNeighbors(n_neighbors=15).fit(x).kneighbors(return_distance=False)
    around = NearestNeighbors(n_neighbors=50).fit(places).kneighbors(return_distance=False)
    kept = np.mean([np.isin(a, b).mean() for a, b in zip(near, around, strict=True)])
    # A map that knew the types alone would keep 50 of the 75 cells of a type.
    assert kept > 1.1 * 50 / 75


def test_cells_do_not_lie_upon_centres(mapped):
    _, _, coordinates, places = mapped
    assert len(np.unique(places, axis=0)) == len(places)
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors(places)
    assert (distances > 0).all()


def test_the_same_picture_however_cells_are_split(mapped):
    x, labels, coordinates, _ = mapped
    split = micro_of(*(x[labels == i] for i in range(4)), x[:0])
    np.testing.assert_allclose(learn_map(split, 0), coordinates, atol=1e-4)


def test_the_seed_decides(mapped):
    x, _, coordinates, _ = mapped
    micro = micro_of(x)
    assert learn_map(micro, 0).tobytes() == coordinates.tobytes()
    assert learn_map(micro, 1).tobytes() != coordinates.tobytes()


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 12])
def test_few_cells_have_a_place(cells):
    micro = micro_of(cloud(1, cells=cells)[0])
    coordinates = learn_map(micro, 0)
    assert coordinates.shape == (len(micro.centres), 2)
    assert np.isfinite(coordinates).all()


def test_equal_cells_have_a_place():
    assert np.isfinite(learn_map(micro_of(np.ones((30, 3))), 0)).all()


def test_groups_far_apart_have_a_place():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(80, 4)) + 1e3 * (np.arange(80)[:, None] // 40)
    coordinates = learn_map(MicroCentres(centres, np.zeros(80, dtype=np.int64), 0.1), 0)
    assert np.isfinite(coordinates).all()


def test_one_dimension_is_enough():
    centres = np.linspace(-1, 1, 40)[:, None]
    assert np.isfinite(learn_map(MicroCentres(centres, np.zeros(40, dtype=np.int64), 0.1), 0)).all()
