import anndata
import numpy as np

from fedsc.data.aligned import align
from fedsc.data.reading.in_memory import expression_of
from fedsc.federated.answers import answer
from fedsc.federated.preprocessing import fit_preprocessing, learn_preprocessing
from fedsc.federated.query import ask_locally
from fedsc.options import DataOptions
from simulations.benchmarks.statistics_memory import measure, opened, write_synthetic


def test_a_file_on_disk_teaches_the_same_as_in_memory(tmp_path):
    path = tmp_path / "cells.h5ad"
    write_synthetic(path, cells=300, genes=200, per_cell=40, seed=0)
    cells = anndata.read_h5ad(path)
    assert cells.shape == (300, 200)
    assert (cells.X.sum(axis=1) >= 40).all()
    assert cells.X.has_canonical_format

    found = measure(path)
    assert found["nonzeros"] == cells.X.nnz
    assert found["peak GB"] > 0

    source, config = opened(path), DataOptions(n_genes=50)
    ask = ask_locally([align(source, source.genes)], answer)
    on_disk = learn_preprocessing(ask, source.genes, "counts", config)
    in_memory = fit_preprocessing([expression_of(cells)], config)
    assert set(on_disk.genes) == set(in_memory.genes)
    order = [on_disk.genes.index(gene) for gene in in_memory.genes]
    np.testing.assert_allclose(on_disk.mean[order], in_memory.mean, rtol=1e-12)
    np.testing.assert_allclose(on_disk.std[order], in_memory.std, rtol=1e-12)
