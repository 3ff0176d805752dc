"""Files made to lead elsewhere, to fill the memory, or to mislead: each ends in a sentence."""

import gzip
import tracemalloc
import zlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedsc.data.reading import memory, safe_hdf5, safe_text
from fedsc.data.reading.read import read
from fedsc.data.reading.safe_hdf5 import open_hdf5
from fedsc.data.reading.safe_text import open_bounded
from fedsc.errors import DataError

MIB, GIB = 2**20, 2**30
N, G = 12, 9


@pytest.fixture(autouse=True)
def one_gib(monkeypatch):
    """Let every machine have 1 GiB free."""
    for module in (memory, safe_hdf5):
        monkeypatch.setattr(module, "available_memory", lambda: GIB)


@pytest.fixture
def path(tmp_path):
    x = csr_matrix(np.random.default_rng(0).poisson(1.0, (N, G)).astype(np.float32))
    cells = anndata.AnnData(
        x,
        obs=pd.DataFrame({"depth": np.arange(N)}, index=[f"cell{i}" for i in range(N)]),
        var=pd.DataFrame(index=[f"GEN{i}A" for i in range(G)]),
    )
    cells.write_h5ad(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad").matrix.shape == (N, G)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.ones((N, G))
        file["text"] = [f"secret{i}" for i in range(N)]
    return tmp_path / "a.h5ad"


def _external_link(file):
    del file["X"]
    file["X"] = h5py.ExternalLink("secret.h5", "/numbers")


def _link_nobody_reads(file):
    file["uns/far"] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_through_external(file):
    file["uns/far"] = h5py.ExternalLink("secret.h5", "/")
    del file["X"]
    file["X"] = h5py.SoftLink("/uns/far/numbers")


def _external_storage(file):
    del file["X"]
    file.create_dataset("X", (N, G), "u1", external=[("secret.h5", 0, N * G)])


def _external_obs(file):
    file.create_dataset("obs/stolen", (N,), "u1", external=[("/etc/passwd", 0, N)])


def _virtual(file):
    del file["X"]
    layout = h5py.VirtualLayout((N, G), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "numbers", shape=(N, G))
    file.create_virtual_dataset("X", layout)


def _giant_chunk(file):
    del file["X"]
    file.create_dataset("X", (2**15, 2**15), "u1", chunks=(2**15, 2**15), compression="gzip")


def _deflated(name):
    """Put a chunk that inflates to 64 times what it promises; 2 MiB count as free."""

    def hostile(file):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        dataset = file.create_dataset(name, shape, dtype, chunks=shape, compression="gzip")
        dataset.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(64 * MIB)))

    return hostile


def _deflated_twice(file):
    del file["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, properties)


def _promised(name, shape, dtype="f4"):
    """Promise a terabyte, and write nothing."""

    def hostile(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=True).attrs.update(attributes)

    return hostile


def _indptr(value):
    def hostile(file):
        file["X/indptr"][-1] = value

    return hostile


def _indices(file):
    file["X/indices"][0] = 2**30


def _positions(file):
    for name in list(file):
        del file[name]
    file.create_dataset("X", (10**12, 5), "u1", chunks=(1000, 5))


def _shape(file):
    file["X"].attrs["shape"] = [N, 2**60]


HOSTILE = {
    "external-link": (_external_link, r"/X is a link into another file \(secret\.h5\)"),
    "external-link-in-uns": (_link_nobody_reads, "/uns/far is a link into another file"),
    "soft-link-out": (_soft_through_external, "/uns/far is a link into another file"),
    "external-storage": (_external_storage, r"/X keeps its values in another file \(secret\.h5\)"),
    "external-storage-in-obs": (_external_obs, "/obs/stolen keeps its values in another file"),
    "virtual": (_virtual, "/X is a virtual dataset"),
    "giant-chunk": (_giant_chunk, "/X is stored in one piece too large"),
    "bomb-in-data": (_deflated("X/data"), "/X/data decompresses to more than"),
    "bomb-in-obs": (_deflated("obs/depth"), "/obs/depth decompresses to more than"),
    "compressed-twice": (_deflated_twice, "/X/data is compressed twice"),
    "promised-data": (_promised("X/data", (10**12,)), "GiB"),
    "promised-indices": (_promised("X/indices", (50,), "i4"), "promises 50 values"),
    "promised-rows": (_promised("X/indptr", (10**12,), "i8"), "is 12 cells|GiB|promises"),
    "promised-annotation": (_promised("obs/depth", (10**12,)), "promises 1,000,000,000,000 values"),
    "promised-names": (_promised("var/_index", (10**11,), "S9"), "promises 100,000,000,000 values"),
    "long-names": (_promised("obs/_index", (N,), "S1000000000"), "promises 12 values|too large"),
    "end-beyond-data": (_indptr(10**9), "promises 1,000,000,000 values"),
    "negative-end": (_indptr(-5), "promises -5 values"),
    "gene-out-of-range": (_indices, "cannot be read"),
    "promised-cells": (_positions, "GiB"),
    "promised-genes": (_shape, "the file contradicts itself"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_hdf5_file_ends_in_a_sentence(path, monkeypatch, name):
    hostile, words = HOSTILE[name]
    if name.startswith("bomb"):
        monkeypatch.setattr(safe_hdf5, "available_memory", lambda: 2 * MIB)
    with h5py.File(path, "r+") as file:
        hostile(file)
    tracemalloc.start()
    with pytest.raises(DataError, match=words) as raised:
        read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(raised.value).splitlines()) == 1
    assert most < 32 * MIB  # nothing was allocated that was only promised


def test_a_file_that_contains_itself_is_walked_once(path):
    with h5py.File(path, "r+") as file:
        file["uns/again"] = file["/"]
        file["uns/soft"] = h5py.SoftLink("/uns/soft")
        file["uns/dangling"] = h5py.SoftLink("/nowhere")
    assert read(path).matrix.shape == (N, G)


def test_too_many_objects_are_refused(path, monkeypatch):
    monkeypatch.setattr(safe_hdf5, "MOST_OBJECTS", 5)
    with pytest.raises(DataError, match="more than 5 objects"):
        open_hdf5(path)


def test_large_honest_chunks_are_read(path, monkeypatch):
    # Also where each has to be looked at, because it could hold more than memory does.
    monkeypatch.setattr(safe_hdf5, "available_memory", lambda: 4096)
    cells = anndata.read_h5ad(path)
    cells.write_h5ad(path, compression="gzip")
    assert (read(path).matrix != cells.X).nnz == 0


# Text


def _folder(tmp_path, matrix=None, features=None, barcodes=None):
    good = b"%%MatrixMarket matrix coordinate integer general\n3 2 2\n1 1 4\n3 2 1\n"
    parts = {
        "matrix.mtx.gz": matrix or good,
        "features.tsv.gz": features or b"ENSG1\tA\nENSG2\tB\nENSG3\tC\n",
        "barcodes.tsv.gz": barcodes or b"AAA-1\nCCC-1\n",
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(gzip.compress(content, 1))
    return tmp_path


HEADER = b"%%MatrixMarket matrix coordinate integer general\n"
BOMBS = {
    "comments": {"matrix": HEADER + (b"%" * 999 + b"\n") * 40_000},
    "no-line-end": {"matrix": HEADER + b"%" * (40 * MIB)},
    "more-than-promised": {"matrix": HEADER + b"3 2 2\n" + b"1 1 1\n" * (4 * MIB)},
    "features": {"features": b"x" * (40 * MIB)},
    "features-in-lines": {"features": b"ENSG1\tA\n" * (4 * MIB)},
    "barcodes": {"barcodes": b"\n" * (40 * MIB)},
    "promised-values": {"matrix": HEADER + b"3 2 1000000000000\n1 1 1\n"},
    "promised-cells": {"matrix": HEADER + b"3 1000000000000 1\n1 1 1\n"},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_in_a_10x_folder_ends_in_a_sentence(tmp_path, name):
    folder = _folder(tmp_path)
    assert read(folder).matrix.sum() == 5
    _folder(tmp_path, **BOMBS[name])
    with pytest.raises(DataError, match=r"holds more than|GiB|but features|cannot be read"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cell,A,B\n" + b"c" * (2 * MIB), "a line of more than 1 MiB"),
        (b"," * (2 * MIB), "a line of more than 1 MiB"),
        (b"cell" + b",A" * 1_000 + b"\n", "names more than 500 genes"),
    ],
)
def test_a_bomb_in_a_table_ends_in_a_sentence(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(safe_text, "MOST_LINE", MIB)
    monkeypatch.setattr("fedsc.data.reading.text._MOST_COLUMNS", 500)
    for name, packed in (("a.csv.gz", gzip.compress(content)), ("a.csv", content)):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(DataError, match=words):
            read(tmp_path / name)


def test_a_table_larger_than_memory_is_refused_on_the_way(tmp_path, monkeypatch):
    lines = "".join(f"cell{i},{i % 3},2\n" for i in range(5_000))
    (tmp_path / "a.csv").write_text("cell,A,B\n" + lines)
    assert read(tmp_path / "a.csv").matrix.shape == (5_000, 2)
    monkeypatch.setattr("fedsc.data.reading.text.SLAB", 2_000)
    monkeypatch.setattr(memory, "available_memory", lambda: 50_000)
    with pytest.raises(DataError, match=r"goes on beyond line \d,\d+"):
        read(tmp_path / "a.csv")


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_bounded_stream_gives_all_or_refuses(tmp_path_factory, content, most):
    path = tmp_path_factory.mktemp("text") / "a.txt.gz"
    path.write_bytes(gzip.compress(content))
    too_much = len(content) > most
    try:
        with open_bounded(path, most) as file:
            assert file.read() == content
        assert not too_much
    except DataError:
        assert too_much
