import os

import numpy as np
import pytest

from fedsc import tensors
from fedsc.clusters import CLUSTERS, Clusters, load_clusters
from fedsc.errors import DataError
from fedsc.federated.micro import MicroCentres

M, D, K = 6, 5, 3


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    return Clusters(
        MicroCentres(rng.normal(size=(M, D)), np.array([0, 0, 0, 1, 1, 1]), 0.5),
        np.array([0, 1, 2, 0, 1, 2]),
        rng.normal(size=(K, D)),
        np.array([9, 4, 1]),
        rng.normal(size=(M, 2)),
        ("A", "B", "unknown"),
        np.array([1.0, 0.5, 0.0]),
    )


def test_clusters_come_back_bit_for_bit_and_make_the_same_bytes(clusters, tmp_path):
    assert load_clusters(tmp_path, D) is None
    (tmp_path / CLUSTERS).write_bytes(clusters.pack())
    back = load_clusters(tmp_path, D)
    assert back.pack() == clusters.pack()
    x = np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)
    np.testing.assert_array_equal(back.assign(x), clusters.assign(x))
    np.testing.assert_array_equal(back.place(x), clusters.place(x))


def _with(**changes):
    """Change arrays (``None``: take away) or the record; the digest is made anew."""

    def hostile(path):
        arrays, about = tensors.read(path)
        for name, value in changes.items():
            if name in ("format", "types"):
                about[name] = value
            elif value is None:
                arrays.pop(name)
            else:
                arrays[name] = value
        path.write_bytes(tensors.pack(arrays, about))

    return hostile


def _bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _folder(path):
    path.unlink()
    path.mkdir()


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _giant(path):
    with path.open("r+b") as file:
        file.truncate(2**42)


HOSTILE = {
    "empty": _bytes(lambda b: b""),
    "rubbish": _bytes(lambda b: b"rubbish" * 9),
    "cut": _bytes(lambda b: b[:-3]),
    "flipped": _bytes(lambda b: b[:-3] + b"\xff" + b[-2:]),
    "folder": _folder,
    "pipe": _pipe,
    "giant": _giant,
    "format": _with(format=2),
    "no-types": _with(types=None),
    "few-types": _with(types=["A"]),
    "types-of-numbers": _with(types=[1, 2, 3]),
    "no-nodes": _with(nodes=None),
    "no-sizes": _with(sizes=None),
    "empty-nodes": _with(nodes=np.empty((0, D))),
    "scalar-nodes": _with(nodes=np.array(1.0)),
    "scalar-sizes": _with(sizes=np.array(3)),
    "no-dimensions": _with(nodes=np.empty((M, 0))),
    "other-dimensions": _with(nodes=np.ones((M, D + 1))),
    "nan-nodes": _with(nodes=np.full((M, D), np.nan)),
    "nan-centres": _with(centres=np.full((K, D), np.nan)),
    "fewer-centres": _with(centres=np.ones((K - 1, D))),
    "float32": _with(centres=np.ones((K, D), np.float32)),
    "scalar-centres": _with(centres=np.array(1.0)),
    "negative-sizes": _with(sizes=np.array([1, -1, 1])),
    "gap-in-sets": _with(sets=np.array([0, 0, 0, 2, 2, 2])),
    "sets-from-one": _with(sets=np.array([1, 1, 1, 2, 2, 2])),
    "negative-sets": _with(sets=np.array([-1, 0, 0, 1, 1, 1])),
    "no-scale": _with(scale=np.array([0.0])),
    "far-cluster": _with(centres=None, communities=np.array([0, 1, 99, 0, 1, 2])),
    "negative-cluster": _with(communities=np.array([0, 1, -2, 0, 1, 2])),
    "short-map": _with(places=np.ones((M, 1))),
    "inf-map": _with(places=np.full((M, 2), np.inf)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_clusters_end_in_a_sentence(clusters, tmp_path, name):
    (tmp_path / CLUSTERS).write_bytes(clusters.pack())
    HOSTILE[name](tmp_path / CLUSTERS)
    with pytest.raises(DataError) as raised:
        load_clusters(tmp_path, D)
    assert len(str(raised.value).splitlines()) == 1
