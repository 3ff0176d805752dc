import os
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from fedsc import tensors
from fedsc.clusters import CLUSTERS, Clusters, load_clusters
from fedsc.errors import DataError
from fedsc.federated import graph, kmeans
from fedsc.federated.micro import MicroCentres, unit, weigh

DIMENSIONS = 4
MODEL = SimpleNamespace(dimensions=DIMENSIONS, digest="0123")


def _clusters(*, by_kmeans=False, places=True, types=True):
    """Eight nodes in two micro-clusterings, three clusters."""
    rng = np.random.default_rng(0)
    nodes = unit(rng.normal(size=(8, DIMENSIONS)))
    return Clusters(
        micro=MicroCentres(nodes, np.repeat([0, 1], 4), 0.3),
        communities=np.array([0, 1, 2, 0, 1, 0, 2, 1]),
        centres=rng.normal(size=(3, 2)) if by_kmeans else None,
        sizes=np.array([5, 3, 1]),
        places=rng.normal(size=(8, 2)) if places else None,
        types=("T cell", "B cell", "unknown") if types else (),
        shares=np.array([0.9, 0.6, 0.0]),
        model=MODEL.digest,
        integration="",
    )


@pytest.fixture
def cells():
    return np.random.default_rng(1).normal(size=(50, DIMENSIONS)).astype(np.float32)


@pytest.mark.parametrize("by_kmeans", [False, True])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("types", [False, True])
def test_they_come_back_bit_for_bit_and_make_the_same_bytes(
    tmp_path, cells, by_kmeans, places, types
):
    clusters = _clusters(by_kmeans=by_kmeans, places=places, types=types)
    content = clusters.pack()
    assert clusters.pack() == content
    (tmp_path / CLUSTERS).write_bytes(content)
    back = load_clusters(tmp_path, MODEL)
    assert back.pack() == content
    assert (back.k, back.types) == (3, clusters.types)
    np.testing.assert_array_equal(back.assign(cells), clusters.assign(cells))
    if places:
        assert back.place(cells).tobytes() == clusters.place(cells).tobytes()
    else:
        assert back.place(cells) is None


def test_a_run_without_clusters_has_none(tmp_path):
    assert load_clusters(tmp_path, MODEL) is None


def test_a_cell_has_the_cluster_of_the_graph_or_of_kmeans(cells):
    by_graph, by_kmeans = _clusters(), _clusters(by_kmeans=True)
    found = by_graph.assign(cells)
    expected = graph.assign(by_graph.micro, by_graph.communities, cells)
    np.testing.assert_array_equal(found, expected)
    # k-means may look at the first columns alone.
    nearest = [
        np.square(by_kmeans.centres - x[: by_kmeans.centres.shape[1]]).sum(axis=1).argmin()
        for x in cells
    ]
    np.testing.assert_array_equal(by_kmeans.assign(cells), nearest)
    np.testing.assert_array_equal(kmeans.assign(by_kmeans.centres, cells[:, :2]), nearest)


def test_a_cell_lies_among_the_nodes_it_belongs_to(cells):
    clusters = _clusters()
    places = clusters.place(cells)
    assert places.dtype == np.float32
    expected = [weigh(clusters.micro, x[None]).toarray()[0] @ clusters.places for x in cells]
    np.testing.assert_allclose(places, expected, rtol=1e-5, atol=1e-6)
    assert clusters.place(cells[:0]).shape == (0, 2)


# Files from somebody else


def _hostile(name, change, **made):
    """Change one array; the digest is made anew, so that only the content is at fault."""
    arrays, about = tensors.unpack_with_about(_clusters(**made).pack())
    changed = change(arrays.pop(name).copy())
    return tensors.pack(arrays | ({} if changed is None else {name: changed}), about)


def _told(**changes):
    arrays, about = tensors.unpack_with_about(_clusters().pack())
    return tensors.pack(arrays, about | changes)


def _without(name):
    arrays, about = tensors.unpack_with_about(_clusters().pack())
    del about[name]
    return tensors.pack(arrays, about)


def _set(value):
    def change(array):
        array.flat[-1] = value
        return array

    return change


def _gone(array):
    return None


GOOD = _clusters().pack()
HOSTILE = {
    "empty": (b"", "cannot be read"),
    "rubbish": (b"rubbish" * 9, "cannot be read"),
    "cut": (GOOD[:-30], "cannot be read"),
    "flipped": (GOOD[:-9] + bytes([GOOD[-9] ^ 1]) + GOOD[-8:], "digest"),
    "no-record": (safetensors.numpy.save(tensors.unpack(GOOD)), "format is 'none'"),
    "new-format": (_told(format=2), "format is 2"),
    "no-nodes": (_hostile("nodes", _gone), "nodes"),
    "empty-nodes": (_hostile("nodes", lambda a: a[:0]), "sets is"),
    "flat-nodes": (_hostile("nodes", np.ravel), "not rows and columns"),
    "a-number-for-nodes": (_hostile("nodes", lambda a: a[0, 0]), "not rows and columns"),
    "nodes-of-no-dimensions": (_hostile("nodes", lambda a: a[:, :0]), "0 dimensions"),
    "nan-node": (_hostile("nodes", _set(np.nan)), "nodes is not finite"),
    "single-precision": (_hostile("nodes", lambda a: a.astype("f4")), "nodes is float32"),
    "other-model": (_hostile("nodes", lambda a: a[:, 1:].copy()), "3 dimensions"),
    "gap-in-sets": (_hostile("sets", lambda a: a * 2), "not in sets"),
    "sets-from-one": (_hostile("sets", lambda a: a + 1), "not in sets"),
    "sets-unordered": (_hostile("sets", lambda a: a[::-1].copy()), "not in sets"),
    "sets-of-fractions": (_hostile("sets", lambda a: a.astype("f8")), "sets is float64"),
    "zero-scale": (_hostile("scale", _set(0.0)), "not in sets"),
    "inf-scale": (_hostile("scale", _set(np.inf)), "scale is not finite"),
    "two-scales": (_hostile("scale", lambda a: np.repeat(a, 2)), "scale is"),
    "negative-community": (_hostile("communities", _set(-1)), "in a cluster that is none"),
    "community-too-high": (_hostile("communities", _set(3)), "in a cluster that is none"),
    "few-communities": (_hostile("communities", lambda a: a[1:]), "communities is"),
    "no-cluster": (_hostile("sizes", lambda a: a[:0]), "shares is"),
    "negative-size": (_hostile("sizes", _set(-1)), "3 clusters"),
    "sizes-of-fractions": (_hostile("sizes", lambda a: a.astype("f8")), "sizes is float64"),
    "nan-share": (_hostile("shares", _set(np.nan)), "shares is not finite"),
    "map-in-space": (_hostile("places", lambda a: np.ones((8, 3))), "places is"),
    "map-of-fewer": (_hostile("places", lambda a: a[1:]), "places is"),
    "nan-place": (_hostile("places", _set(np.nan)), "places is not finite"),
    "nan-centre": (_hostile("centres", _set(np.nan), by_kmeans=True), "centres is not finite"),
    "centres-of-fewer": (_hostile("centres", lambda a: a[1:], by_kmeans=True), "centres is"),
    "wide-centres": (
        _hostile("centres", lambda a: np.ones((3, 5)), by_kmeans=True),
        "centres of 5 dimensions",
    ),
    "empty-centres": (
        _hostile("centres", lambda a: a[:, :0], by_kmeans=True),
        "centres of 0 dimensions",
    ),
    "flat-centres": (
        _hostile("centres", lambda a: a[:, 0].copy(), by_kmeans=True),
        "not rows and columns",
    ),
    "no-types": (_told(types=None), "a type for each cluster"),
    "types-for-two": (_told(types=["a", "b"]), "a type for each cluster"),
    "types-of-numbers": (_told(types=[1, 2, 3]), "a type is no text"),
    "model-of-numbers": (_told(model=[1]), "digest of their model is no text"),
    "integration-of-numbers": (_told(integration=1), "name of their integration is no text"),
    "model-beside-another": (_told(model="4567"), "made with another model than the one beside"),
    "model-of-an-earlier-version": (_without("model"), "or by an earlier version of FedSC; resume"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_a_sentence(tmp_path, name):
    content, words = HOSTILE[name]
    (tmp_path / CLUSTERS).write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        load_clusters(tmp_path, MODEL)
    assert str(raised.value).startswith(str(tmp_path / CLUSTERS))
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_no_file_or_too_large_is_not_read(tmp_path):
    path = tmp_path / CLUSTERS
    os.mkfifo(path)
    with pytest.raises(DataError, match="is no file"):
        load_clusters(tmp_path, MODEL)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**42)  # takes no disk
    with pytest.raises(DataError, match="GiB"):
        load_clusters(tmp_path, MODEL)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at, by):
    content = GOOD[:at] + bytes([GOOD[at] ^ by]) + GOOD[at + 1 :]
    with suppress(DataError):
        assert Clusters.unpack(content).pack() == GOOD  # white space in the header
