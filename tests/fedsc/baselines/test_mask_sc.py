import json
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.io import write_elem
from scipy.sparse import csr_matrix

from fedsc.baselines import mask_sc
from fedsc.baselines.inputs import prepare
from fedsc.baselines.mask_sc import PRESETS, fit
from fedsc.baselines.method import Settings
from fedsc.baselines.presets import choose
from fedsc.data.additions import storable
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError
from fedsc.models.mlp import init_mlp

QUICK = {"epochs": 2, "warmup": 1, "side": 12, "batch_size": 32}


def file(n_cells=50, n_genes=150, n_types=2, seed=0):
    rng = np.random.default_rng(seed)
    types = np.arange(n_cells) % n_types
    rates = rng.gamma(0.5, 4.0, size=(n_types, n_genes))
    counts = rng.poisson(rates[types]).astype(np.float32)
    counts[:, 0] = 3.0  # a constant gene
    cells = np.array([f"c{i}" for i in range(n_cells)])
    return Expression(
        np.array([f"g{i}" for i in range(n_genes)], dtype=object),
        cells,
        pd.DataFrame({"type": types.astype(str)}, index=cells),
        "counts",
        csr_matrix(counts),
        label_key="type",
    )


def teacher(n_genes=144):
    return init_mlp("encoder", (n_genes, 20, 10, 60), "batch", torch.Generator().manual_seed(5))


def quick(expression, *, k=2, seed=0, given=None, checkpoint=None, **overrides):
    preset = choose(PRESETS, "", QUICK | overrides)
    return fit(expression, preset, k, Settings(seed=seed, checkpoint=checkpoint), teacher=given)


def test_result_has_embedding_clusters_attention_and_a_record():
    found = quick(file(), given=teacher())
    assert found.embedding.shape == (50, 64)
    assert found.embedding.dtype == np.float32
    assert set(found.clusters) == {0, 1}
    assert found.extras["attention_class"].shape == (50, 9)
    for name in ("attention_class", "attention_mean"):
        np.testing.assert_allclose(found.extras[name].sum(axis=1), 1.0, rtol=1e-5)
    assert found.extras["patch_places"].shape == (9, 2)
    assert len(set(found.extras["patch_genes"].ravel())) == 144
    record = json.loads(json.dumps(found.record))
    assert record["genes"] == 144
    assert len(record["losses"]) == 2
    assert record["clusters"] == {"by": "k-means", "k": 2}
    assert record["FLOP per second"] > 0
    assert record["sizes"]["base"]["seconds at this speed"] > record["training seconds"]


def test_the_cost_of_many_cells_can_be_written(monkeypatch):
    monkeypatch.setattr(mask_sc, "step_flops", lambda *_: 2**60)
    record = quick(file(), given=teacher()).record
    with h5py.File("memory.h5ad", "w", driver="core", backing_store=False) as written:
        write_elem(written, "record", storable(record))
        assert written["record/sizes/base/FLOP"][()] == 2.0**60 * 50 * 1600


def test_types_far_apart_are_told_apart():
    expression = file()
    clusters = quick(expression, given=teacher(), epochs=4).clusters
    agree = (clusters == expression.labels.astype(int)).mean()
    assert max(agree, 1 - agree) > 0.95  # clusters have no names


def test_teacher_is_trained_when_none_is_given_and_can_be_chosen():
    paper, steady = quick(file()), quick(file(), teacher="steady")
    assert np.isfinite(paper.embedding).all()
    assert paper.record["losses"] != steady.record["losses"]
    with pytest.raises(ConfigError, match="unknown preset 'x'; known are paper, steady"):
        quick(file(), teacher="x")


def test_same_seed_same_bits():
    first, again, other = (quick(file(), seed=s, target="expression") for s in (1, 1, 2))
    assert first.embedding.tobytes() == again.embedding.tobytes()
    assert np.array_equal(first.clusters, again.clusters)
    assert first.embedding.tobytes() != other.embedding.tobytes()


def test_finished_checkpoint_gives_the_same_result(tmp_path):
    first, again = (quick(file(), checkpoint=tmp_path) for _ in range(2))
    assert first.embedding.tobytes() == again.embedding.tobytes()
    assert "FLOP per second" not in again.record  # nothing was trained


@pytest.mark.parametrize("target", ["patch", "cell", "expression"])
def test_patches_in_a_row(target):
    found = quick(file(), given=teacher(), embedding="sequence", target=target)
    assert found.extras["patch_places"].tolist() == [[i] for i in range(9)]
    assert found.embedding.shape == (50, 64)


def test_fewer_genes_than_the_matrix_holds():
    expression = file(n_genes=110)
    found = quick(expression, given=teacher(110), side=16)
    genes = found.extras["patch_genes"]
    assert sorted(set(genes.ravel()) - {""}) == sorted(expression.genes)
    assert len(genes) == 8  # seven rows of sixteen genes: two rows of four patches
    assert found.extras["attention_class"].shape == (50, 8)


def test_unknown_k_is_chosen_without_labels():
    expression = file()
    found = quick(expression, k=None, given=teacher())
    assert found.record["clusters"]["by"] == "leiden"
    assert len(set(found.clusters)) == found.record["clusters"]["k"]


def test_one_type_and_constant_genes_give_a_result():
    found = quick(file(n_types=1), given=teacher())
    assert np.isfinite(found.embedding).all()
    assert len(found.clusters) == 50


@pytest.mark.parametrize(
    ("expression", "overrides", "error", "message"),
    [
        (file(), {"k": 51}, ConfigError, "k = 51 clusters cannot be made of 50 cells"),
        (file(), {"k": 0}, ConfigError, "k = 0"),
        (file(n_cells=1), {}, DataError, "1 cell"),
        (file(n_genes=12), {"embedding": "sequence"}, DataError, "at least 2 patches of 16"),
        (file(), {"side": 10}, ConfigError, "side = 10: must be a multiple of 4"),
        (file(), {"warmup": 2}, ConfigError, "warmup = 2: must be less than epochs = 2"),
        (file(), {"mask_ratio": 1.0}, ConfigError, "mask_ratio = 1.0"),
        (file(), {"target": "gene"}, ConfigError, "target = 'gene'"),
        (file(), {"epoch": 3}, ConfigError, "did you mean 'epochs'"),
    ],
)
def test_bad_input_gets_a_clear_sentence(expression, overrides, error, message):
    with pytest.raises(error, match=message):
        quick(expression, **overrides)


def test_genes_tied_at_the_last_place_do_not_overfill_the_matrix():
    expression = file(n_genes=80)
    copies = replace(
        expression,
        matrix=csr_matrix(np.repeat(expression.matrix.toarray(), 5, axis=1)),
        genes=np.array([f"g{i}" for i in range(400)], dtype=object),
    )
    assert prepare(copies, 144, 10.0)[0].n_genes > 144
    found = quick(copies, target="expression")
    assert len(set(found.extras["patch_genes"].ravel())) == 144
