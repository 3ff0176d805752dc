import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from fedsc import tensors
from fedsc.data.preprocess import transform
from fedsc.data.reading.read import read
from fedsc.errors import DataError
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.methods import load_objective, method_of
from fedsc.model import Model, load_model, load_private_norm
from fedsc.private import pack_private
from fedsc.rng import torch_generator
from fedsc.training import embed_cells


@pytest.fixture
def model(tiny):
    preprocessing = fit_preprocessing([read(tiny.data.dataset)], tiny.data)
    weights = load_objective(method_of(tiny.method)).init(
        30, tiny.method, torch_generator(0, "init")
    )
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    return Model(arrays, preprocessing, "fedsc", unit=True, scale="pooled", local_norm=False)


def _save(model, folder):
    for name, content in model.files().items():
        (folder / name).write_bytes(content)


def test_a_model_comes_back_bit_for_bit(model, tiny, tmp_path):
    _save(model, tmp_path)
    back = load_model(tmp_path)
    assert back.files() == model.files()
    assert back.digest == model.digest
    assert back.digest != replace(model, unit=False).digest
    assert back.preprocessing.mean.tobytes() == model.preprocessing.mean.tobytes()
    cells = read(tiny.data.dataset)
    expected = embed_cells(model.weights, transform(cells, model.preprocessing))
    np.testing.assert_array_equal(back.embed(cells), expected)


def test_a_gene_named_with_what_unicode_takes_for_the_end_of_a_line_comes_back(model, tmp_path):
    vocabulary = (*model.preprocessing.vocabulary, "TP5\u2028B")
    _save(
        replace(model, preprocessing=replace(model.preprocessing, vocabulary=vocabulary)), tmp_path
    )
    assert load_model(tmp_path).preprocessing.vocabulary == vocabulary


def test_the_order_of_a_files_genes_does_not_matter(model, tiny):
    cells = read(tiny.data.dataset)
    order = np.random.default_rng(0).permutation(len(cells.genes))
    shuffled = replace(cells, matrix=cells.matrix[:, order], genes=cells.genes[order])
    np.testing.assert_allclose(model.embed(shuffled), model.embed(cells), atol=1e-6)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.csv", "vocabulary.txt"])
def test_missing_files_are_named(model, tmp_path, name):
    _save(model, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"not the folder of a finished run: {name} is missing"):
        load_model(tmp_path)


# Folders from somebody else. Each change turns a good folder into a bad one.


def _tensor(name, change):
    """Change one tensor; the digest is made anew, so that only the content is at fault."""

    def hostile(folder):
        weights, about = tensors.read(folder / "model.safetensors")
        changed = change(weights.pop(name).copy())
        weights |= {} if changed is None else {name: changed}
        (folder / "model.safetensors").write_bytes(tensors.pack(weights, about))

    return hostile


def _more(name, array):
    def hostile(folder):
        weights, about = tensors.read(folder / "model.safetensors")
        (folder / "model.safetensors").write_bytes(tensors.pack(weights | {name: array}, about))

    return hostile


def _about(**changes):
    def hostile(folder):
        weights, about = tensors.read(folder / "model.safetensors")
        about |= {name.replace("_", "-"): value for name, value in changes.items()}
        about = {name: value for name, value in about.items() if value is not _GONE}
        (folder / "model.safetensors").write_bytes(tensors.pack(weights, about))

    return hostile


def _bytes(name, change):
    def hostile(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return hostile


def _genes(column, value):
    """Set a column of the second gene."""

    def hostile(folder):
        lines = (folder / "genes.csv").read_text().splitlines()
        cells = lines[2].split(",")
        cells[["gene", "mean", "std"].index(column)] = value
        lines[2] = ",".join(cells)
        (folder / "genes.csv").write_text("\n".join(lines) + "\n")

    return hostile


def _folder(name):
    def hostile(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return hostile


def _pipe(name):
    def hostile(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return hostile


def _giant(name):
    def hostile(folder):
        with (folder / name).open("r+b") as file:
            file.truncate(2**42)  # takes no disk

    return hostile


def _loop(folder):
    (folder / "genes.csv").unlink()
    (folder / "genes.csv").symlink_to(folder / "genes.csv")


def _no_digest(folder):
    weights, _ = tensors.read(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(weights))


def _set(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


_GONE = object()
W, B = "encoder.1.weight", "encoder.0.bias"
VAR = "encoder.0.norm.running_var"
HOSTILE = {
    "nan-weight": (_tensor(W, _set(np.nan)), "not finite"),
    "inf-bias": (_tensor(B, _set(np.inf)), "not finite"),
    "huge-weights": (
        _tensor(W, lambda a: np.full_like(a, 3e38)),
        "cannot be read|not finite|missing",
    ),
    "zero-weights": (_tensor(W, np.zeros_like), "zeros only"),
    "negative-variance": (_tensor(VAR, _set(-5)), "not positive"),
    "zero-variance": (_tensor(VAR, _set(0)), "not positive"),
    "nan-in-a-head": (_tensor("projector.0.weight", _set(np.nan)), "not finite"),
    "float64": (_tensor(W, lambda a: a.astype(np.float64)), "float64, not float32"),
    "whole-numbers": (_tensor(W, lambda a: a.astype(np.int32)), "int32, not float32"),
    "half": (_tensor(W, lambda a: a.astype(np.float16)), "float16, not float32"),
    "one-dimension": (_tensor(W, np.ravel), r"layer 1 .* weight of shape \(8000,\)"),
    "transposed": (_tensor(W, lambda a: a.T.copy()), "layer 1 .* weight of shape"),
    "other-genes": (_tensor("encoder.0.weight", lambda a: a[:, 1:]), "weight of shape"),
    "short-bias": (_tensor(B, lambda a: a[1:]), r"bias of shape \(199,\)"),
    "scalar-bias": (_tensor(B, lambda a: a[0].reshape(())), r"bias of shape \(\)"),
    "empty-weight": (_tensor(W, lambda a: a[:0]), "is empty"),
    "no-weight": (_tensor(W, lambda a: None), "weight of shape None"),
    "no-bias": (_tensor(B, lambda a: None), "has the parts"),
    "half-a-norm": (_tensor(VAR, lambda a: None), "has the parts"),
    "norm-at-the-end": (_more("encoder.2.norm.weight", np.ones(60, "f4")), "has the parts"),
    "a-layer-too-many": (_more("encoder.7.weight", np.ones((2, 2), "f4")), "not 0, 1, 2"),
    "odd-name": (_more("encoder.0.weights", np.ones(2, "f4")), "no part of an encoder"),
    "odd-path": (_more("encoder.../../x", np.ones(2, "f4")), "no part of an encoder"),
    "no-encoder": (
        lambda f: (f / "model.safetensors").write_bytes(
            tensors.pack({"x": np.ones(2, "f4")}, tensors.read(f / "model.safetensors")[1])
        ),
        "has the layers",
    ),
    "no-record": (_no_digest, "its format is 'none'"),
    "old-format": (_about(format=_GONE), "its format is 'none'"),
    "new-format": (_about(format=2), "its format is 2"),
    "format-of-text": (_about(format="1"), "its format is '1'"),
    "no-scale": (_about(scale=_GONE), "scale is None"),
    "odd-scale": (_about(scale="planet"), "scale is 'planet'"),
    "scale-list": (_about(scale=["lab"]), "scale is"),
    "unit-of-text": (_about(unit="yes"), "unit is 'yes'"),
    "norm-of-number": (_about(local_norm=1), "local-norm is 1"),
    "method-of-list": (_about(method=[1]), "method is"),
    "negative-target": (_about(target_sum=-1), "target-sum -1"),
    "nan-target": (_about(target_sum=float("nan")), "target-sum nan"),
    "huge-target": (_about(target_sum=10**400), "too large"),
    "target-of-text": (_about(target_sum="x"), "target-sum is 'x'"),
    "zero-clip": (_about(max_value=0), "max-value 0"),
    "nan-clip": (_about(max_value=float("nan")), "max-value nan"),
    "empty-model": (
        _bytes("model.safetensors", lambda b: b""),
        "cannot be read|not finite|missing",
    ),
    "rubbish": (
        _bytes("model.safetensors", lambda b: b"rubbish" * 9),
        "cannot be read|not finite|missing",
    ),
    "cut": (_bytes("model.safetensors", lambda b: b[:-9]), "cannot be read|not finite|missing"),
    "flipped": (_bytes("model.safetensors", lambda b: b[:-9] + b"\xff" + b[-8:]), "digest"),
    "giant-header": (
        _bytes("model.safetensors", lambda b: b"\xff" * 7 + b"\0" + b),
        "cannot be read|not finite|missing",
    ),
    "giant-model": (_giant("model.safetensors"), "GiB"),
    "giant-genes": (_giant("genes.csv"), "bytes, more than"),
    "giant-vocabulary": (_giant("vocabulary.txt"), "bytes, more than"),
    "model-is-a-folder": (_folder("model.safetensors"), "is no file"),
    "genes-is-a-folder": (_folder("genes.csv"), "is no file"),
    "vocabulary-is-a-pipe": (_pipe("vocabulary.txt"), "is no file"),
    "genes-loop": (_loop, "cannot be read|not finite|missing"),
    "zero-std": (_genes("std", "0"), "not positive"),
    "negative-std": (_genes("std", "-1"), "not positive"),
    "tiny-std": (_genes("std", "1e-300"), "not positive"),
    "nan-std": (_genes("std", "nan"), "cannot be read|not finite|missing"),
    "inf-mean": (_genes("mean", "inf"), "not finite"),
    "huge-mean": (_genes("mean", "1e300"), "not finite"),
    "mean-of-text": (_genes("mean", "x"), "cannot be read|not finite|missing"),
    "no-name": (_genes("gene", ""), "without a name"),
    "other-name": (_genes("gene", "ACTB"), "which vocabulary.txt does not"),
    "other-columns": (_bytes("genes.csv", lambda b: b"a,b\n1,2\n"), "'gene'"),
    "no-genes": (_bytes("genes.csv", lambda b: b"gene,mean,std\n"), "names no genes"),
    "empty-genes": (_bytes("genes.csv", lambda b: b""), "cannot be read|not finite|missing"),
    "genes-twice": (_bytes("genes.csv", lambda b: b + b.splitlines()[1] + b"\n"), "twice"),
    "fewer-genes": (_bytes("genes.csv", lambda b: b"".join(b.splitlines(True)[:-1])), "of shape"),
    "ragged-genes": (
        _bytes("genes.csv", lambda b: b + b"a,b,c,d,e\n"),
        "cannot be read|not finite|missing",
    ),
    "no-text": (
        _bytes("vocabulary.txt", lambda b: b"\xff\xfe\x00"),
        "cannot be read|not finite|missing",
    ),
    "empty-vocabulary": (_bytes("vocabulary.txt", lambda b: b""), "without a name"),
    "vocabulary-twice": (_bytes("vocabulary.txt", lambda b: b + b), "twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_ends_in_a_sentence(model, tiny, tmp_path, name):
    _save(model, tmp_path)
    hostile, words = HOSTILE[name]
    hostile(tmp_path)
    with pytest.raises(DataError, match=words) as raised:
        load_model(tmp_path).embed(read(tiny.data.dataset))
    assert len(str(raised.value).splitlines()) == 1


# A model of labs with normalisation layers of their own


@pytest.fixture
def private(model, tmp_path):
    """A lab's private state: its normalisation layers, and a tensor of its target network."""
    layers = {f"norm:{n}": a + 1 for n, a in model.weights.items() if ".norm." in n}
    path = tmp_path / "private-000003.safetensors"
    path.write_bytes(tensors.pack(layers | {"target.encoder.0.bias": np.ones(200, "f4")}))
    return path


def test_a_model_without_its_norm_layers_does_not_embed(model, tiny, private):
    local, cells = replace(model, local_norm=True), read(tiny.data.dataset)
    with pytest.raises(DataError, match="stayed in the labs"):
        local.embed(cells)
    kept = load_private_norm(private, local)
    assert not np.array_equal(local.embed(cells, kept), model.embed(cells))
    with pytest.raises(DataError, match="needs no lab's private state"):
        load_private_norm(private, model)


def test_labs_that_share_a_file_are_told_apart_by_their_folders(model, private, tmp_path):
    local, kept = replace(model, local_norm=True), tensors.read(private)[0]
    states = {lab: {n: a + i for n, a in kept.items()} for i, lab in enumerate("ab", start=1)}
    for folder in ("a", "b", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / private.name).write_bytes(b"".join(pack_private(states)))
    for lab, state in states.items():
        np.testing.assert_equal(load_private_norm(tmp_path / lab / private.name, local), state)
    with pytest.raises(DataError, match="it is of the labs a, b"):
        load_private_norm(tmp_path / "elsewhere" / private.name, local)


def test_a_model_without_norm_layers_is_whole(model):
    plain = {name: array for name, array in model.weights.items() if ".norm." not in name}
    assert not replace(model, weights=plain, local_norm=True).needs_private


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kept: {}, "not the layers of this model"),
        (lambda kept: dict(list(kept.items())[1:]), "not the layers of this model"),
        (lambda kept: kept | {"norm:encoder.9.norm.weight": np.ones(2, "f4")}, "encoder.9.norm"),
        (lambda kept: kept | {"norm:encoder.0.norm.weight": np.ones(2, "f4")}, "of shape"),
        (lambda kept: kept | {"norm:" + VAR: -np.ones(200, "f4")}, "not positive"),
        (lambda kept: kept | {"norm:" + VAR: np.full(200, np.nan, "f4")}, "not finite"),
    ],
)
def test_a_damaged_private_state_is_refused(model, private, change, words):
    private.write_bytes(tensors.pack(change(tensors.read(private)[0])))
    with pytest.raises(DataError, match=words):
        load_private_norm(private, replace(model, local_norm=True))


def test_one_cell_cannot_be_standardised_by_itself(model, tiny):
    cells = read(tiny.data.dataset)
    lab = replace(model, scale="lab")
    with pytest.raises(DataError, match="2 cells or more"):
        lab.embed(cells.subset(np.array([0])))
    assert lab.embed(cells).shape == (96, 60)
