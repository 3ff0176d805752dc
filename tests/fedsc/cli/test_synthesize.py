import anndata
import pytest
import typer
from typer.testing import CliRunner

from fedsc.cli.synthesize import synthesize
from fedsc.data import synthetic
from fedsc.errors import ConfigError

app = typer.Typer()
app.command()(synthesize)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_writes_what_was_asked_for(tmp_path):
    path = tmp_path / "toy.h5ad"
    shown = run(path, "--cells", 90, "--genes", 80, "--types", 3, "--labs", 2, "--seed", 7,
                "--markers", 5, "--dropout", 0.2)  # fmt: skip
    assert "90 cells × 80 genes, 3 types, 2 labs" in shown
    made = synthetic.synthesize(90, 80, 3, 2, 7, synthetic.Biology(markers=5, dropout=0.2))
    read = anndata.read_h5ad(path)
    assert (read.X != made.X).nnz == 0
    assert read.obs.equals(made.obs)
    assert set(read.obs.columns) == {"cell_type", "lab"}


def test_refuses(tmp_path):
    path = tmp_path / "toy.h5ad"
    path.touch()
    with pytest.raises(ConfigError, match=r"toy.h5ad exists.*--force"):
        run(path)
    with pytest.raises(ConfigError, match=r"should end in .h5ad"):
        run(tmp_path / "toy.csv")
    with pytest.raises(ConfigError, match=r"there is no folder"):
        run(tmp_path / "no" / "toy.h5ad")
    with pytest.raises(ConfigError, match="genes = 10: types = 8"):
        run(path, "--genes", 10, "--force")
    run(path, "--cells", 20, "--genes", 50, "--types", 2, "--force", "--labs", 2)
    assert anndata.read_h5ad(path).n_obs == 20
