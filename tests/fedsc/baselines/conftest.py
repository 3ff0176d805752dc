"""What the tests of the centralised methods share."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.data.expression import Expression


@pytest.fixture(scope="session")
def cells() -> Callable[..., Expression]:
    """Give a maker of cells whose types differ in the rates of all genes, the first gene apart."""

    def make(n_cells=50, n_genes=60, n_types=3, seed=0, kind="counts", prefix="gene"):
        rng = np.random.default_rng(seed)
        types = np.arange(n_cells) % n_types
        programs = rng.gamma(0.5, 4.0, (n_types, n_genes))
        counts = rng.poisson(programs[types]).astype(np.float32)
        counts[:, 0] = 2  # a gene that is the same everywhere
        counts[0, 1] = max(counts[0, 1], 1)
        if kind == "lognorm":
            counts = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
        names = np.array([f"c{i}" for i in range(n_cells)], dtype=object)
        obs = pd.DataFrame({"type": types.astype(str)}, index=names)
        # Letters, since names that end in a position alone can only be joined by order.
        genes = [f"{prefix}-{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(n_genes)]
        return Expression(
            np.array(genes, dtype=object), names, obs, kind, csr_matrix(counts), label_key="type"
        )

    return make


@pytest.fixture(scope="session")
def same_partition() -> Callable[[np.ndarray, np.ndarray], bool]:
    """Give the test of two clusterings being the same but for the clusters' names."""

    def same(a, b):
        return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a)) == len(set(b))

    return same
