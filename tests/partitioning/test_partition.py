from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import partitioning
from fedsc.config import Config
from fedsc.data.expression import Expression
from fedsc.errors import ConfigError, DataError


def partition(cells, config):
    return partitioning.partition(cells, config.split, config.run.seed)


def partition_obs(obs, label_key, config):
    return partitioning.partition_obs(obs, label_key, config.split, config.run.seed)


def cells_of(labels, **columns) -> Expression:
    names = np.array([f"c{i}" for i in range(len(labels))], dtype=object)
    obs = pd.DataFrame({"type": np.asarray(labels, dtype=object), **columns}, index=names)
    return Expression(
        np.array(["a", "b"]),
        names,
        obs,
        "counts",
        csr_matrix((len(labels), 2), dtype=np.float32),
        label_key="type",
    )


def blocks(sizes) -> list[str]:
    """Labels t00, t01, … with the given numbers of cells, interleaved."""
    labels = [f"t{kind:02d}" for kind, size in enumerate(sizes) for _ in range(size)]
    return list(np.random.default_rng(0).permutation(labels))


def check_disjoint(parts: dict[str, np.ndarray], cells: int) -> np.ndarray:
    """Check what every split promises; give all its rows, sorted."""
    assert list(parts) == sorted(parts)
    for rows in parts.values():
        assert rows.dtype == np.int64
        assert len(rows) > 0
        assert (np.diff(rows) > 0).all()
    rows = np.sort(np.concatenate(list(parts.values())))
    assert len(np.unique(rows)) == len(rows)
    assert rows[0] >= 0
    assert rows[-1] < cells
    return rows


sizes = st.lists(st.integers(8, 40), min_size=1, max_size=12)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 8), st.data(), st.sampled_from(["drop", "all"]), seeds)
def test_subtypes_keeps_whole_types_and_loses_no_cell_of_them(sizes, labs, data, cover, seed):
    k = data.draw(st.integers(1, len(sizes)))
    cells = cells_of(blocks(sizes))
    options = {"labs": labs, "subtypes_per_lab": k, "cover": cover, "seed": seed}
    parts = partition(cells, Config.of(**options))
    rows = check_disjoint(parts, len(cells.cells))
    assert len(parts) == labs

    kept = set(cells.labels[rows])
    assert set(rows) == set(np.flatnonzero(np.isin(cells.labels, list(kept))))
    assert len(kept) == (len(sizes) if cover == "all" else min(len(sizes), labs * k))
    per_lab = [len(set(cells.labels[r])) for r in parts.values()]
    assert min(per_lab) >= k
    # "About k·K parts over C types": left-over types are dealt one to a lab in turn.
    left = max(0, len(sizes) - labs * k) if cover == "all" else 0
    assert sum(per_lab) == labs * k + left
    assert max(per_lab) - k <= -(-left // labs)

    for kind in kept:
        shares = [int((cells.labels[r] == kind).sum()) for r in parts.values()]
        shares = [share for share in shares if share]
        assert max(shares) - min(shares) <= 1
    if cover == "drop":
        uses = Counter(kind for r in parts.values() for kind in set(cells.labels[r]))
        fewest = min(uses.values()) if len(uses) == len(sizes) else 0
        assert max(uses.values()) - fewest <= 1

    again = partition(cells, Config.of(**options))
    assert all(np.array_equal(parts[lab], again[lab]) for lab in parts)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.data(), seeds)
def test_iid_covers_all_in_equal_parts(cells, data, seed):
    labs = data.draw(st.integers(1, min(cells, 40)))
    config = Config.of(partition="iid", labs=labs, seed=seed)
    parts = partition(cells_of(["x"] * cells), config)
    assert np.array_equal(check_disjoint(parts, cells), np.arange(cells))
    lengths = [len(rows) for rows in parts.values()]
    assert len(parts) == labs
    assert max(lengths) - min(lengths) <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(20, 60), min_size=2, max_size=8),
    st.integers(1, 6),
    st.floats(0.2, 100),
    seeds,
)
def test_dirichlet_covers_all_with_a_least_size(sizes, labs, beta, seed):
    cells = cells_of(blocks(sizes))
    config = Config.of(partition="dirichlet", labs=labs, beta=beta, min_cells=2, seed=seed)
    parts = partition(cells, config)
    assert np.array_equal(check_disjoint(parts, sum(sizes)), np.arange(sum(sizes)))
    assert len(parts) == labs
    assert min(map(len, parts.values())) >= 2
    again = partition(cells, config)
    assert all(np.array_equal(parts[lab], again[lab]) for lab in parts)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["b", "a", "Ö 1", "x/y"]), min_size=1, max_size=50), seeds)
def test_column_gives_every_value_its_lab(values, seed):
    config = Config.of(partition="column", partition_key="donor", labs=1, seed=seed)
    cells = cells_of(["x"] * len(values), donor=pd.Categorical(values))
    parts = partition(cells, config)
    assert np.array_equal(check_disjoint(parts, len(values)), np.arange(len(values)))
    safe = {"b": "b", "a": "a", "Ö 1": "O-1", "x/y": "x-y"}
    for value in set(values):
        assert list(parts[safe[value]]) == [i for i, v in enumerate(values) if v == value]


@pytest.mark.parametrize("scheme", ["subtypes", "iid", "dirichlet"])
def test_seeds_differ(scheme):
    cells = cells_of(blocks([50] * 6))
    splits = [
        partition(cells, Config.of(partition=scheme, subtypes_per_lab=2, seed=seed))
        for seed in (0, 1)
    ]
    assert any(not np.array_equal(splits[0][lab], splits[1][lab]) for lab in splits[0])


@pytest.mark.parametrize(("types", "k"), [(8, 2), (16, 4)])
def test_papers_splits_put_every_type_into_one_lab(types, k):
    cells = cells_of(blocks(range(13, 13 + types)))
    for seed in range(5):
        parts = partition(cells, Config.of(labs=4, subtypes_per_lab=k, seed=seed))
        hands = [set(cells.labels[rows]) for rows in parts.values()]
        assert [len(hand) for hand in hands] == [k] * 4
        assert len(set.union(*hands)) == types
        assert len(check_disjoint(parts, len(cells.cells))) == len(cells.cells)


def test_twelve_parts_of_ten_types():
    cells = cells_of(blocks([30] * 10))
    parts = partition(cells, Config.of(labs=4, subtypes_per_lab=3))
    uses = Counter(kind for rows in parts.values() for kind in set(cells.labels[rows]))
    assert sum(uses.values()) == 12
    assert sorted(uses.values()) == [1] * 8 + [2] * 2
    for kind, labs in uses.items():
        shares = {int((cells.labels[rows] == kind).sum()) for rows in parts.values()} - {0}
        assert shares == {30 // labs}


def test_table_3_drops_types_and_cover_all_does_not():
    cells = cells_of(blocks([20] * 16))
    dropped = partition(cells, Config.of(labs=4, subtypes_per_lab=1, cover="drop"))
    assert [len(rows) for rows in dropped.values()] == [20] * 4
    dealt = partition(cells, Config.of(labs=4, subtypes_per_lab=1, cover="all"))
    assert [len(rows) for rows in dealt.values()] == [80] * 4


def test_real_bladder_cells(real_data):
    import anndata

    obs = anndata.read_h5ad(real_data("mouse_bladder_2746_top2003")).obs
    parts = partition_obs(obs, "cell_type", Config.of(subtypes_per_lab=4))
    assert len(check_disjoint(parts, 2746)) == 2746
    assert [obs.cell_type.iloc[rows].nunique() for rows in parts.values()] == [4] * 4


def test_names_sort_at_any_number_of_labs():
    parts = partition(cells_of(["x"] * 1000), Config.of(partition="iid", labs=1000))
    assert min(parts) == "lab-000"
    assert max(parts) == "lab-999"
    assert list(partition(cells_of("xxxx"), Config.of(partition="iid"))) == [
        "lab-0",
        "lab-1",
        "lab-2",
        "lab-3",
    ]
    assert list(partition(cells_of("xxxx"), Config.of(partition="iid", labs=1))) == ["lab-0"]


def test_row_order_of_categories_and_index_play_no_part():
    labels = blocks([20] * 6)
    plain = partition(cells_of(labels), Config.of(subtypes_per_lab=2))
    obs = pd.DataFrame({"type": pd.Categorical(labels, categories=sorted(set(labels))[::-1])})
    ordered = partition_obs(obs, "type", Config.of(subtypes_per_lab=2))
    assert all(np.array_equal(plain[lab], ordered[lab]) for lab in plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subtypes_per_lab": 4}, "subtypes-per-lab = 4: the data have 3 cell types.*1 to 3"),
        (
            {"subtypes_per_lab": 3, "labs": 6},
            r"labs = 6 with subtypes-per-lab = 3 cuts type 't00' into 6 parts.*5 cell\(s\)",
        ),
        ({"partition": "iid", "labs": 100}, "labs = 100.*data have 17 cells"),
        (
            {"partition": "dirichlet", "labs": 4, "min_cells": 5},
            "labs = 4 with min-cells = 5 needs 20 cells.*17",
        ),
        (
            {"partition": "dirichlet", "labs": 4, "min_cells": 4, "beta": 1e-3},
            "beta = 0.001 gave no split.*labs = 4.*min-cells = 4.*raise beta",
        ),
        ({"partition": "dirichlet", "beta": 1e-300, "min_cells": 4}, "beta = 1e-300"),
        (
            {"partition": "column", "partition_key": "dono"},
            "partition-key = 'dono'.*did you mean 'donor'",
        ),
        ({"partition": "column", "partition_key": "zzz"}, "partition-key = 'zzz'.*'type', 'donor'"),
    ],
)
def test_impossible_options_say_why(options, message):
    cells = cells_of(blocks([5, 6, 6]), donor=["a"] * 17)
    with pytest.raises(ConfigError, match=message):
        partition(cells, Config.of(**{"subtypes_per_lab": 2, **options}))


@pytest.mark.parametrize("scheme", ["subtypes", "dirichlet"])
def test_schemes_by_type_need_types(scheme):
    obs = pd.DataFrame({"donor": ["a", "b"]})
    with pytest.raises(ConfigError, match=f"'{scheme}' needs label-key.*'donor'"):
        partition_obs(obs, "", Config.of(partition=scheme))
    with pytest.raises(ConfigError, match=r"label-key = 'donr'.*did you mean 'donor'"):
        partition_obs(obs, "donr", Config.of(partition=scheme))
    with pytest.raises(DataError, match="'type' has no cell type for 1 of 2 cells"):
        partition_obs(pd.DataFrame({"type": ["a", None]}), "type", Config.of(partition=scheme))


def test_no_cells():
    with pytest.raises(DataError, match="no cells"):
        partition(cells_of([]), Config.of(partition="iid"))


def by(values):
    return partition_obs(
        pd.DataFrame({"donor": values}), "", Config.of(partition="column", partition_key="donor")
    )


def test_column_refuses_missing_clashing_and_countless_values():
    with pytest.raises(DataError, match="'donor' has no value for 2 of 3 cells"):
        by(["a", None, float("nan")])
    with pytest.raises(DataError, match="'donor' has no value for 1 of 2 cells"):
        by(["", "a"])
    with pytest.raises(ConfigError, match="'a b' and 'a/b' would both be named 'a-b'"):
        by(["a b", "a/b"])
    with pytest.raises(ConfigError, match="'A' and 'a' would both"):
        by(["a", "A"])
    with pytest.raises(ConfigError, match=r"1001 values.*1000 labs"):
        by([str(i) for i in range(1001)])


def test_column_takes_numbers_and_strange_values():
    assert list(by([2, 10, 2])) == ["10", "2"]
    assert list(by([2.0, 1.5])) == ["1.5", "2"]
    names = list(by(["../etc", "   ", "x" * 300, "ok\n1"]))
    assert sorted(names) == sorted(["etc", "unnamed", "x" * 63, "ok-1"])
