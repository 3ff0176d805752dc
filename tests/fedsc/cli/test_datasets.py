import anndata
import numpy as np
import typer
from typer.testing import CliRunner

from fedsc.cli import datasets as command
from fedsc.data import registry
from fedsc.data.catalogue import DATASETS

app = typer.Typer()
app.command()(command.datasets)


def lines(monkeypatch, tmp_path):
    for module in (registry, command):
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    result = CliRunner().invoke(app, [], catch_exceptions=False, env={"COLUMNS": "150"})
    assert result.exit_code == 0
    return result.output.splitlines()


def row(shown, name):
    return next(line for line in shown if line.split()[:1] == [name])


def test_every_set_with_its_size_and_place(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDSC_DATA", raising=False)
    shown = lines(monkeypatch, tmp_path)
    for name in DATASETS:
        assert row(shown, name)
    assert "4271 × 16653" in row(shown, "10x_pbmc")
    assert "with fedsc" in row(shown, "10x_pbmc")
    assert "download" in row(shown, "mouse_bladder")
    assert "with scanpy" in row(shown, "pbmc68k_reduced")
    assert "by hand" in row(shown, "adam")
    assert any("FEDSC_DATA is not set" in line for line in shown)


def test_what_is_present(monkeypatch, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for stem in ("mouse_bladder_2746_top2003", "mine"):
        anndata.AnnData(np.ones((2, 2), dtype=np.float32)).write_h5ad(folder / f"{stem}.h5ad")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "worm_neuron.h5").touch()
    monkeypatch.setenv("FEDSC_DATA", str(folder))
    shown = lines(monkeypatch, tmp_path)
    assert "FEDSC_DATA" in row(shown, "mouse_bladder")
    assert "cache" in row(shown, "worm_neuron")
    others = " ".join(shown[shown.index(next(x for x in shown if x.startswith("Also in"))) :])
    assert "mine" in others
    assert "top2003" not in others
