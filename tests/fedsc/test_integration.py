import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import silhouette_samples
from sklearn.metrics.pairwise import euclidean_distances

from fedsc.integration import (
    METRICS,
    batch_silhouette,
    connectivity,
    lisi,
    nearest_neighbors,
    scores,
)


def cloud(seed=0, cells=240, apart=0.0, types=3):
    """Types far from one another; batch 1 is ``apart`` from batch 0."""
    rng = np.random.default_rng(seed)
    batch, kind = rng.integers(0, 2, cells), rng.integers(0, types, cells)
    centres = rng.normal(size=(types, 5)) * 8
    x = centres[kind] + rng.normal(size=(cells, 5))
    x[:, 0] += apart * batch
    return x, batch, np.array(["B", "NK", "T", "mono"])[kind]


def slow_lisi(x, groups, k):
    """One cell after the other: β by Brent's method, shares by counting."""
    far, index = euclidean_distances(x), []
    for i, row in enumerate(far):
        near = [j for j in np.argsort(row, kind="stable") if j != i][:k]
        d = row[near]

        def weigh(beta, d=d):
            p = np.exp(-beta * (d - d.min()))
            return p / p.sum()

        def excess(log_beta, weigh=weigh):
            p = weigh(np.exp(log_beta))
            p = p[p > 0]
            return -(p * np.log(p)).sum() - np.log(k // 3)

        p = weigh(np.exp(brentq(excess, -20, 20, xtol=1e-14)))
        index.append(1 / sum(p[groups[near] == g].sum() ** 2 for g in np.unique(groups)))
    return np.array(index)


@pytest.mark.parametrize("k", [9, 30])
def test_lisi_equals_a_slow_one(k):
    x, batch, kind = cloud(cells=120, apart=2)
    for groups in (batch, kind):
        np.testing.assert_allclose(
            lisi(*nearest_neighbors(x, k), groups), slow_lisi(x, groups, k), atol=1e-4
        )


def test_lisi_is_harmonypys():
    harmonypy = pytest.importorskip("harmonypy")
    x, batch, _ = cloud(cells=300, apart=2)
    theirs = harmonypy.compute_lisi(x, {"batch": batch}, ["batch"], perplexity=30)[:, 0]
    np.testing.assert_allclose(lisi(*nearest_neighbors(x, 90), batch), theirs, rtol=0.03)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 4))
@settings(max_examples=20)
def test_lisi_lies_between_one_and_the_number_of_groups(seed, cells, groups):
    rng = np.random.default_rng(seed)
    x, codes = rng.normal(size=(cells, 3)), rng.integers(0, groups, cells)
    x[: cells // 2] = 0  # equal cells
    found = lisi(*nearest_neighbors(x, min(90, cells - 1)), codes)
    assert (found >= 1 - 1e-9).all()
    assert (found <= len(np.unique(codes)) + 1e-9).all()


def test_batch_silhouette_is_the_mean_of_types_means():
    x, batch, kind = cloud(apart=3)
    kind = kind.astype("U9")
    kind[:3], batch[:3] = "alone", 0  # a type of a single batch
    kind[3:5], batch[3:5] = "odd", [0, 1]  # a batch for every cell
    expected = np.mean(
        [
            1 - np.abs(silhouette_samples(x[kind == t], batch[kind == t])).mean()
            for t in ("B", "NK", "T")
        ]
    )
    assert batch_silhouette(x, batch, kind) == pytest.approx(expected, abs=1e-12)
    assert batch_silhouette(x[:3], batch[:3], kind[:3]) is None


def test_connectivity_equals_a_slow_walk():
    x, _, kind = cloud(seed=2, types=4)
    kind[:40] = "B"  # types in several parts
    _, neighbors = nearest_neighbors(x, 4)
    edges = {(i, int(j)) for i, row in enumerate(neighbors) for j in row}
    shares = []
    for label in np.unique(kind):
        left, parts = set(np.flatnonzero(kind == label).tolist()), []
        while left:
            reached = front = {left.pop()}
            while front:
                front = {j for j in left for i in front if (i, j) in edges or (j, i) in edges}
                left -= front
                reached = reached | front
            parts.append(len(reached))
        shares.append(max(parts) / sum(parts))
    assert min(shares) < 1
    assert connectivity(neighbors, kind) == pytest.approx(np.mean(shares), abs=1e-12)


def test_scores_tell_mixed_from_unmixed():
    mixed, unmixed = (scores(*cloud(cells=600, apart=apart)) for apart in (0.0, 6.0))
    assert mixed.keys() == unmixed.keys() == set(METRICS)
    assert mixed["ilisi"] > 0.8 > 0.2 > unmixed["ilisi"]
    assert mixed["batch_asw"] > 0.95 > 0.6 > unmixed["batch_asw"]
    assert all(0 <= value <= 1 + 1e-9 for found in (mixed, unmixed) for value in found.values())


def test_scores_tell_types_apart_from_types_on_top():
    x, batch, kind = cloud(cells=600)
    shuffled = np.random.default_rng(0).permutation(kind)
    apart, on_top = scores(x, batch, kind), scores(x, batch, shuffled)
    assert apart["clisi"] > 0.99 > 0.5 > on_top["clisi"]
    assert apart["type_asw"] > 0.75 > 0.55 > on_top["type_asw"]


def test_what_is_undefined_is_none():
    x, batch, kind = cloud(cells=50)
    assert scores(x, batch, None) == {
        **dict.fromkeys(METRICS),
        "ilisi": pytest.approx(0.9, abs=0.2),
    }
    one = scores(x, np.zeros(50), kind)
    assert one["ilisi"] is one["batch_asw"] is None
    assert one["clisi"] is not None
    single = scores(x, batch, np.full(50, "T"))
    assert single["clisi"] is single["type_asw"] is None
    assert single["connectivity"] == 1
    assert scores(x[:3], batch[:3], kind[:3]) == dict.fromkeys(METRICS)
