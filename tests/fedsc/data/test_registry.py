import dataclasses
import gc
import hashlib
import re
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from fedsc.config import Config
from fedsc.data import registry
from fedsc.data.catalogue import DATASETS
from fedsc.data.reading.how import ReadAs
from fedsc.data.registry import resolve
from fedsc.errors import DataError


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    """Keep the tests off the user's data and cache."""
    monkeypatch.delenv("FEDSC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "cache_folder", lambda: tmp_path / "cache")


def write(path, **columns):
    path.parent.mkdir(exist_ok=True, parents=True)
    obs = pd.DataFrame(columns, index=["a", "b"])
    anndata.AnnData(np.ones((2, 3), dtype=np.float32), obs).write_h5ad(path)
    return path


def write_xy(path):
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["X"] = np.arange(6.0).reshape(2, 3)
        file["Y"] = [1.0, 2.0]
    return path


def test_the_papers_sets_are_listed():
    assert len(DATASETS) == 16
    sizes = {name: (e.cells, e.genes, e.types) for name, e in DATASETS.items()}
    assert sizes["10x_pbmc"] == (4271, 16653, 8)
    assert sizes["mouse_bladder"] == (2746, 20670, 16)
    assert sizes["worm_neuron"] == (4186, 13488, 10)
    assert sizes["young_human_kidney"][::2] == (5685, 11)
    assert sizes["klein_mouse_es"] == (2717, 24175, 4)
    assert (DATASETS["10x_pbmc"].subtypes_per_lab, DATASETS["mouse_bladder"].subtypes_per_lab) == (
        2,
        4,
    )
    assert all(
        re.fullmatch(r"\w+", name) and entry.name == name for name, entry in DATASETS.items()
    )
    assert all(entry.url or entry.page or entry.file for entry in DATASETS.values())


def test_a_path_wins(tmp_path, monkeypatch):
    file = write(tmp_path / "cells.h5ad", cell_type=["x", "y"])
    assert resolve(str(file)) == registry.Source("cells", file)
    (tmp_path / "worm_neuron").mkdir()
    assert resolve("worm_neuron").path.is_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/cells.h5ad").path == file


def test_the_default_set_comes_with_fedsc():
    from fedsc.data.reading.read import read

    assert Config().data.dataset == "10x_pbmc"
    source = resolve("10x_pbmc")
    assert source.path == Path(registry.__file__).parent / "10x_pbmc.h5ad"
    assert source.subtypes_per_lab == Config().split.subtypes_per_lab == 2
    assert hashlib.sha256(source.path.read_bytes()).hexdigest() == (
        "e2fb6dec818c7ff2a3d62d566656f0cd0239fec39172fd6835818c3dd21baa98"
    )
    cells = read(source.path, ReadAs(layer=source.layer, label_key=source.label_key))
    assert (len(cells.cells), len(cells.genes)) == (4271, 2000)
    assert np.unique(cells.labels, return_counts=True)[1].tolist() == [
        1292, 702, 606, 459, 450, 332, 295, 135,
    ]  # fmt: skip


def test_a_copy_of_the_code_alone_finds_the_installed_set(tmp_path, monkeypatch):
    """As Flower runs the app: its copy, without data, stands before the installed packages."""
    copy = tmp_path / "copy"
    (copy / "fedsc" / "data").mkdir(parents=True)
    installed = tmp_path / "site-packages"
    file = write(installed / "fedsc" / "data" / "10x_pbmc.h5ad", cell_type=["x", "y"])
    monkeypatch.setattr(sys, "path", [str(copy), "nowhere", str(installed)])
    assert resolve("10x_pbmc") == registry.Source("10x_pbmc", file, "", "cell_type", 2, known=True)

    own = write(tmp_path / "data" / "10x_pbmc.h5ad", cell_type=["x", "y"])
    monkeypatch.setenv("FEDSC_DATA", str(own.parent))
    assert resolve("10x_pbmc").path == own  # a person's own copy of a set wins


def test_a_package_that_lost_its_set(monkeypatch):
    entry = dataclasses.replace(DATASETS["pbmc68k_reduced"], file="scanpy/no/such.h5ad")
    monkeypatch.setitem(DATASETS, entry.name, entry)
    with pytest.raises(
        DataError, match=r"'pbmc68k_reduced' comes with scanpy.*install scanpy again"
    ):
        resolve("pbmc68k_reduced")


def test_packaged_set_comes_without_importing_scanpy():
    source = resolve("pbmc68k_reduced")
    assert (source.layer, source.label_key) == ("raw", "bulk_labels")
    with h5py.File(source.path) as file:
        assert file["X"].shape == (700, 765)
        assert "bulk_labels" in file["obs"].dtype.names
    code = (
        "import sys; from fedsc.data.registry import resolve; resolve('pbmc68k_reduced');"
        "sys.exit('scanpy' in sys.modules or 'anndata' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_folder_by_name_alias_and_stem(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    monkeypatch.setenv("FEDSC_DATA", str(folder))
    alias = write(folder / "mouse_bladder_2746_top2003.h5ad", cell_type=["x", "y"])
    other = write(folder / "mine.h5ad", donor=["x", "y"])
    xy = write_xy(folder / "klein_mouse_es.h5")

    assert resolve("mouse_bladder") == registry.Source(
        "mouse_bladder", alias, "", "cell_type", subtypes_per_lab=4, known=True
    )
    by_stem = resolve("mouse_bladder_2746_top2003")
    assert (by_stem.path, by_stem.subtypes_per_lab) == (alias, 4)
    assert resolve("mine") == registry.Source("mine", other, "", "", known=True)
    assert resolve("klein_mouse_es") == registry.Source("klein_mouse_es", xy, "", "Y", known=True)

    exact = write(folder / "mouse_bladder.h5ad", cell_type=["x", "y"])
    assert resolve("mouse_bladder").path == exact


def test_data_folder_comes_before_the_cache(tmp_path, monkeypatch):
    cached = write_xy(tmp_path / "cache" / "worm_neuron.h5")
    assert resolve("worm_neuron").path == cached
    local = write(tmp_path / "data" / "worm_neuron.h5ad")
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path / "data"))
    assert resolve("worm_neuron").path == local


def test_resolved_real_sets_are_readable(real_data, monkeypatch):
    from fedsc.data.reading.read import read

    path = real_data("10x_pbmc_4271_top2000")
    monkeypatch.setenv("FEDSC_DATA", str(path.parent))
    source = resolve("10x_pbmc")
    assert source.path == path
    cells = read(source.path, ReadAs(layer=source.layer, label_key=source.label_key))
    assert len(set(cells.labels)) == DATASETS["10x_pbmc"].types
    assert len(cells.cells) == DATASETS["10x_pbmc"].cells


def test_unknown_names_get_close_matches(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"'wrm_neuron'.*not set.*did you mean 'worm_neuron'"):
        resolve("wrm_neuron")
    write(tmp_path / "data" / "zzz_donors.h5ad")
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="did you mean 'zzz_donors'"):
        resolve("zzz_donor")
    with pytest.raises(DataError, match=r"'qqqqqq'.*; `fedsc datasets` lists"):
        resolve("qqqqqq")


@pytest.mark.parametrize("path", ["cells.h5ad", "some/where", "counts.csv"])
def test_missing_paths_are_called_missing(path):
    with pytest.raises(DataError, match=f"'{path}': there is no such file or folder"):
        resolve(path)


def test_other_bad_input(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="dataset is empty"):
        resolve("")
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"FEDSC_DATA = '.*nowhere' is not a folder"):
        resolve("adam")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bad.h5ad").write_text("not HDF5")
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"bad.h5ad: not an HDF5 file"):
        resolve("bad")


def test_sets_without_a_download_say_where_to_get_them():
    with pytest.raises(
        DataError, match=r"'adam' has no direct download: get it from https://drive"
    ):
        resolve("adam")


class _Files(BaseHTTPRequestHandler):
    content = b""
    promised = 0

    def do_GET(self):
        if self.path == "/missing.h5":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.promised))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Serve some bytes on this machine as the download of 'worm_neuron'."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def start(content, *, promised=None, sha256=None, name="file.h5"):
        monkeypatch.setattr(_Files, "content", content)
        monkeypatch.setattr(_Files, "promised", promised or len(content))
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        entry = dataclasses.replace(DATASETS["worm_neuron"], url=url, sha256=sha256)
        monkeypatch.setitem(DATASETS, "worm_neuron", entry)
        return url

    yield start
    server.shutdown()
    server.server_close()
    with warnings.catch_warnings():  # pooch leaves a failed response to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("pinned", [True, False])
def test_download_is_verified_or_its_checksum_said(tmp_path, serve, caplog, pinned):
    content = write_xy(tmp_path / "upstream.h5").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    serve(content, sha256=digest if pinned else None)
    source = resolve("worm_neuron")
    assert source == registry.Source(
        "worm_neuron", tmp_path / "cache" / "worm_neuron.h5", "", "Y", None, known=True
    )
    assert source.path.read_bytes() == content
    assert (f"sha256='{digest}'" in caplog.text) is not pinned
    serve(b"changed upstream")
    assert resolve("worm_neuron").path.read_bytes() == content


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ({"content": b"<html>", "sha256": "0" * 64}, "sha|SHA"),
        ({"content": b"<html>"}, "is not an HDF5 file"),
        ({"content": b"\x89HDF\r\n\x1a\n", "promised": 1000}, "could not be downloaded"),
        ({"content": b"", "name": "missing.h5"}, r"could not be downloaded \(HTTPError\)"),
    ],
)
def test_bad_downloads_leave_nothing_behind(tmp_path, serve, served, message):
    url = serve(**served)
    with pytest.raises(DataError, match=message) as caught:
        resolve("worm_neuron")
    assert url in str(caught.value)
    assert list((tmp_path / "cache").glob("*")) == []


def test_no_network_names_the_address_and_the_place(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 9 (discard) is not served on any machine these tests run on: refused at once.
    entry = dataclasses.replace(DATASETS["worm_neuron"], url="http://127.0.0.1:9/worm.h5")
    monkeypatch.setitem(DATASETS, "worm_neuron", entry)
    message = (
        r"'worm_neuron' could not be downloaded \(ConnectionError\): "
        r"get http://127.0.0.1:9/worm.h5 by other means.*worm_neuron.h5ad.*set FEDSC_DATA"
    )
    with pytest.raises(DataError, match=message):
        resolve("worm_neuron")
