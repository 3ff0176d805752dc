from pathlib import Path

import anndata
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fedsc.cli.embed import embed
from fedsc.errors import DataError
from simulations.inprocess import run_inprocess

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(embed)


@pytest.fixture
def run(tiny):
    run_inprocess(tiny)
    return Path(tiny.output) / "run"


def _invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_copy_has_embedding_and_clusters_and_the_input_is_as_it_was(run, tiny_set, tmp_path):
    before = tiny_set.read_bytes()
    output, plot = tmp_path / "out.h5ad", tmp_path / "map.png"
    done = _invoke(tiny_set, "--model", run, "-o", output, "--plot", plot, "--colour", "cell_type")
    assert done.exit_code == 0, done.output
    cells = anndata.read_h5ad(output)
    original = anndata.read_h5ad(tiny_set)
    assert cells.obsm["X_fedsc"].shape == (96, 60)
    np.testing.assert_allclose(np.linalg.norm(cells.obsm["X_fedsc"], axis=1), 1, rtol=1e-5)
    assert cells.obs["fedsc_cluster"].notna().all()
    assert cells.uns["fedsc"]["method"] == "fedsc"
    assert (cells.X != original.X).nnz == 0
    assert list(cells.obs["cell_type"]) == list(original.obs["cell_type"])
    assert tiny_set.read_bytes() == before
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--colour", "celltype"), "no column 'celltype'"),
        (("--layer", "counts"), "counts"),
    ],
)
def test_refusals(run, tiny_set, tmp_path, arguments, words):
    done = _invoke(tiny_set, "--model", run, "-o", tmp_path / "out.h5ad", *arguments)
    assert isinstance(done.exception, DataError)
    assert words in str(done.exception)
    assert not (tmp_path / "out.h5ad").exists()


def test_the_input_is_no_output(run, tiny_set):
    done = _invoke(tiny_set, "--model", run, "-o", tiny_set)
    assert "is the input file" in str(done.exception)
