import numpy as np
import pytest

from fedsc.data.preprocess import transform
from fedsc.data.reading.read import read
from fedsc.errors import DataError
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.methods import load_objective, method_of
from fedsc.model import Model, load_centres, load_model, pack_centres
from fedsc.rng import torch_generator
from fedsc.training import embed_cells


@pytest.fixture
def model(tiny):
    preprocessing = fit_preprocessing([read(tiny.data.dataset)], tiny.data)
    weights = load_objective(method_of(tiny.method)).init(
        30, tiny.method, torch_generator(0, "init")
    )
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    return Model(arrays, preprocessing, "fedsc", unit=True)


def _save(model, folder):
    for name, content in model.files().items():
        (folder / name).write_bytes(content)


def test_a_model_comes_back_bit_for_bit(model, tiny, tmp_path):
    _save(model, tmp_path)
    back = load_model(tmp_path)
    assert back.files() == model.files()
    assert back.preprocessing.mean.tobytes() == model.preprocessing.mean.tobytes()
    cells = read(tiny.data.dataset)
    expected = embed_cells(model.weights, transform(cells, model.preprocessing))
    np.testing.assert_array_equal(back.embed(cells), expected)


def test_the_order_of_a_files_genes_does_not_matter(model, tiny):
    from dataclasses import replace

    cells = read(tiny.data.dataset)
    order = np.random.default_rng(0).permutation(len(cells.genes))
    shuffled = replace(cells, matrix=cells.matrix[:, order], genes=cells.genes[order])
    np.testing.assert_allclose(model.embed(shuffled), model.embed(cells), atol=1e-6)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.csv", "vocabulary.txt"])
def test_missing_files_are_named(model, tmp_path, name):
    _save(model, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="not the folder of a finished run"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"rubbish"), ("genes.csv", b"a,b\n1,2\n"), ("model.safetensors", b"")],
)
def test_damaged_files_are_refused(model, tmp_path, name, content):
    _save(model, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_model(tmp_path)


def test_centres_come_back_bit_for_bit_and_make_the_same_bytes(tmp_path):
    centres, sizes = np.random.default_rng(0).normal(size=(3, 60)), np.array([5, 3, 1])
    assert load_centres(tmp_path) is None
    content = pack_centres(centres, sizes)
    assert pack_centres(centres, sizes) == content
    (tmp_path / "clusters.npz").write_bytes(content)
    assert load_centres(tmp_path).tobytes() == centres.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish" * 9,
        pack_centres(np.empty((0, 3)), np.empty(0)),
        pack_centres(np.full((2, 3), np.nan), np.ones(2)),
        pack_centres(np.ones(3), np.ones(3)),
        pack_centres(np.ones((2, 3)), np.ones(2))[:-30],
    ],
)
def test_damaged_centres_are_refused(tmp_path, content):
    (tmp_path / "clusters.npz").write_bytes(content)
    with pytest.raises(DataError, match="the clusters cannot be read"):
        load_centres(tmp_path)
