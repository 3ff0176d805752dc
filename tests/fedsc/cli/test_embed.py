import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

import fedsc
from fedsc import tensors
from fedsc.cli.embed import embed
from fedsc.clusters import load_clusters
from fedsc.data.joined import concat
from fedsc.errors import ConfigError, DataError
from fedsc.model import MODEL, load_model
from partitioning.simulation import simulated_labs
from simulations.inprocess import run_inprocess

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(embed)


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory):
    config = tiny_run.replace(output=str(tmp_path_factory.mktemp("made")))
    run_inprocess(config)
    return Path(config.run.output) / "run"


@pytest.fixture
def run(made, tmp_path):
    """Give a copy of one run, to be changed at will."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "run"))


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
    assert cells.uns["fedsc"]["method"] == "fedsc"
    # These are the run's clusters, under its names.
    clusters = load_clusters(run, load_model(run))
    names = [str(cluster) for cluster in range(clusters.k)]
    assert list(cells.obs["fedsc_cluster"].cat.categories) == names
    expected = clusters.assign(cells.obsm["X_fedsc"])
    np.testing.assert_array_equal(cells.obs["fedsc_cluster"].cat.codes, expected)
    assert list(cells.obs["fedsc_type"]) == [clusters.types[c] for c in expected]
    np.testing.assert_array_equal(cells.obs["fedsc_type_share"], clusters.shares[expected])
    assert f"the run's {clusters.k} clusters" in cells.uns["fedsc"]["clusters"]
    assert (cells.X != original.X).nnz == 0
    assert list(cells.obs["cell_type"]) == list(original.obs["cell_type"])
    assert tiny_set.read_bytes() == before
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_leiden_is_taken_only_where_it_is_asked_for(run, tiny_set, tmp_path):
    asked, alone = tmp_path / "asked.h5ad", tmp_path / "alone.h5ad"
    by_leiden = ("--resolution", "0.5")
    assert _invoke(tiny_set, "--model", run, "-o", asked, *by_leiden).exit_code == 0
    (run / "clusters.safetensors").unlink()
    done = _invoke(tiny_set, "--model", run, "-o", alone)
    assert "clusters.safetensors is missing" in str(done.exception)
    assert "give a resolution" in str(done.exception)
    assert not alone.exists()
    assert _invoke(tiny_set, "--model", run, "-o", alone, *by_leiden).exit_code == 0
    copies = [anndata.read_h5ad(path) for path in (asked, alone)]
    for cells in copies:
        assert cells.uns["fedsc"]["clusters"] == "Leiden"
        assert cells.uns["fedsc"]["resolution"] == 0.5
    assert copies[0].obs["fedsc_cluster"].equals(copies[1].obs["fedsc_cluster"])


def test_clusters_of_another_model_are_given_to_no_cell(run, tiny_set, tmp_path):
    model = load_model(run)
    other = replace(model, weights={name: 2 * array for name, array in model.weights.items()})
    (run / MODEL).write_bytes(other.files()[MODEL])
    done = _invoke(tiny_set, "--model", run, "-o", tmp_path / "out.h5ad")
    assert "clusters.safetensors: made with another model" in str(done.exception)
    assert not (tmp_path / "out.h5ad").exists()


def test_a_table_gives_an_h5ad(run, tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    table = pd.DataFrame(cells.X.toarray(), index=cells.obs_names, columns=cells.var_names)
    table.rename(columns=str.lower).to_csv(tmp_path / "cells.csv")
    a, b = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    of_table = (tmp_path / "cells.csv", "--model", run, "--fold-case", "-o", a)
    assert _invoke(*of_table).exit_code == 0
    assert _invoke(tiny_set, "--model", run, "-o", b).exit_code == 0
    one, other = anndata.read_h5ad(a), anndata.read_h5ad(b)
    np.testing.assert_array_equal(one.obsm["X_fedsc"], other.obsm["X_fedsc"])
    assert list(one.obs["fedsc_cluster"]) == list(other.obs["fedsc_cluster"])
    # The copy of a table holds what was read, under the names it was read by.
    assert not one.uns["fedsc"]["fold-case"]
    both = concat({"one": a, "other": b})
    assert list(both.var_names) == list(cells.var_names)


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


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("scale", ["pooled", "lab"])
@pytest.mark.parametrize("local_norm", [False, True])
def test_it_equals_what_the_labs_embedded(unlabelled, change, tmp_path, scale, norm, local_norm):
    config = change(unlabelled, scale=scale, norm=norm, local_norm=local_norm, rounds=1, labs=2)
    run_inprocess(config)
    folder = Path(config.run.output) / "run"
    for lab, cells in simulated_labs(config.data, config.split, config.run.seed).labs.items():
        own = folder / "labs" / lab
        anndata.AnnData(
            cells.matrix, obs=pd.DataFrame(index=cells.cells), var=pd.DataFrame(index=cells.genes)
        ).write_h5ad(tmp_path / "lab.h5ad")
        arguments = (tmp_path / "lab.h5ad", "--model", folder, "-o", tmp_path / "out.h5ad")
        arguments = (*arguments, "--force")
        done = _invoke(*arguments)
        if local_norm and norm != "none":
            assert "stayed in the labs" in str(done.exception)
            (*_, newest) = sorted(own.glob("private-*.safetensors"))
            done = _invoke(*arguments, "--private", newest)
        assert done.exit_code == 0, done.exception
        found = anndata.read_h5ad(tmp_path / "out.h5ad")
        kept = tensors.read(own / "embedding.safetensors")[0]["embedding"]
        assert found.obsm["X_fedsc"].tobytes() == kept.tobytes()
        assert found.uns["fedsc"]["scale"] == scale
        assert ("standardised within this file" in done.output) == (scale == "lab")


def test_coverage_is_printed_and_recorded_few_genes_are_refused(run, tiny_set, tmp_path):
    genes = load_model(run).preprocessing.genes
    whole = anndata.read_h5ad(tiny_set)

    def embedded(n, *more):
        chosen = [gene for gene in whole.var_names if gene not in genes[n:]]
        whole[:, chosen].copy().write_h5ad(tmp_path / "few.h5ad")
        output = tmp_path / "out.h5ad"
        output.unlink(missing_ok=True)
        done = _invoke(tmp_path / "few.h5ad", "--model", run, "-o", output, *more)
        about = anndata.read_h5ad(output).uns["fedsc"] if output.exists() else None
        return done, about

    done, about = embedded(len(genes))
    assert f"measured: {len(genes)} of the model's {len(genes)} genes (100%)" in done.output
    assert (about["genes"], about["genes-measured"]) == (len(genes), len(genes))
    assert about["weight-measured"] == pytest.approx(1)
    assert "warnings" not in about

    half = len(genes) // 2
    done, about = embedded(half)
    assert done.exit_code == 0
    assert f"warning: the file has only {half} of the model's" in done.output
    assert about["genes-measured"] == half
    assert 0 < about["weight-measured"] < 1
    assert "clusters may be off" in about["warnings"]

    done, about = embedded(3)
    assert isinstance(done.exception, DataError)
    assert "has only 3 of" in str(done.exception)
    assert "--allow-low-coverage" in str(done.exception)
    assert about is None
    done, about = embedded(3, "--allow-low-coverage")
    assert done.exit_code == 0
    assert about["genes-measured"] == 3


def test_clusters_of_another_model_are_refused(run, tiny_set, tmp_path):
    clusters = load_clusters(run, load_model(run))
    micro = replace(clusters.micro, centres=clusters.micro.centres[:, :5].copy())
    (run / "clusters.safetensors").write_bytes(replace(clusters, micro=micro).pack())
    done = _invoke(tiny_set, "--model", run, "-o", tmp_path / "out.h5ad")
    assert isinstance(done.exception, DataError)
    assert "clusters.safetensors: of 5 dimensions, the model has 60" in str(done.exception)


def test_a_map_of_an_unknown_kind_is_refused_before_any_work(run, tiny_set, tmp_path):
    done = _invoke(tiny_set, "--model", run, "-o", tmp_path / "o.h5ad", "--plot", "map.xyz")
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "o.h5ad").exists()


def test_the_input_is_no_output(run, tiny_set):
    done = _invoke(tiny_set, "--model", run, "-o", tiny_set)
    assert "is the input file" in str(done.exception)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_an_exit_code(run, tiny_set, full_disk):
    command = [sys.executable, "-m", "fedsc.cli", "embed", tiny_set, "--model", run]
    done = subprocess.run(
        [*map(str, command), "-o", str(full_disk / "out.h5ad")], capture_output=True, text=True
    )
    assert done.returncode == 1  # not −11
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: cannot write")
    assert sentence.endswith("No space left on device; free some space")
    assert not list(full_disk.iterdir())


def test_a_file_larger_than_memory_is_read_in_blocks_with_the_same_result(
    run, tiny_set, tmp_path, monkeypatch
):
    whole, parts = tmp_path / "whole.h5ad", tmp_path / "parts.h5ad"
    assert _invoke(tiny_set, "--model", run, "-o", whole).exit_code == 0
    monkeypatch.setattr("fedsc.data.reading.read.memory_problem", lambda needed: "too large")
    monkeypatch.setattr("fedsc.data.rows.BLOCK", 500)
    monkeypatch.setattr("anndata.read_h5ad", None)
    done = _invoke(tiny_set, "--model", run, "-o", parts)
    assert done.exit_code == 0, done.output
    assert "larger than memory" in done.output
    refused = _invoke(tiny_set, "--model", run, "-o", parts, "--force", "--colour", "cell_type")
    assert "does not fit in memory" in str(refused.exception)
    monkeypatch.undo()
    one, other = anndata.read_h5ad(whole), anndata.read_h5ad(parts)
    np.testing.assert_allclose(one.obsm["X_fedsc"], other.obsm["X_fedsc"], atol=1e-6)
    assert list(one.obs["fedsc_cluster"]) == list(other.obs["fedsc_cluster"])
    assert (one.X != other.X).nnz == 0


def test_values_that_stand_twice_are_summed_also_in_blocks(run, tiny_set, tmp_path, monkeypatch):
    twice, once = tmp_path / "twice.h5ad", tmp_path / "once.h5ad"
    cells = anndata.read_h5ad(tiny_set)
    cells.X = csr_matrix(cells.X)
    cells.X.data[:] = 2 * np.ceil(cells.X.data)
    cells.write_h5ad(once)
    x = cells.X
    cells.X = csr_matrix(
        (np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape
    )
    cells.write_h5ad(twice)
    monkeypatch.setattr("fedsc.data.reading.read.memory_problem", lambda needed: "too large")
    for path in (once, twice):
        done = _invoke(path, "--model", run, "-o", tmp_path / f"{path.stem}-out.h5ad")
        assert done.exit_code == 0, done.output
    one, other = (anndata.read_h5ad(tmp_path / f"{p.stem}-out.h5ad") for p in (once, twice))
    np.testing.assert_array_equal(one.obsm["X_fedsc"], other.obsm["X_fedsc"])


def test_values_of_another_kind_further_down_are_found(run, tiny_set, tmp_path, monkeypatch):
    cells = anndata.read_h5ad(tiny_set)
    cells.X[90, 0] = 0.5
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    monkeypatch.setattr("fedsc.data.reading.read.memory_problem", lambda needed: "too large")
    monkeypatch.setattr("fedsc.data.rows.BLOCK", 500)
    monkeypatch.setattr("fedsc.data.reading.stored._SAMPLE", 100)
    done = _invoke(path, "--model", run, "-o", tmp_path / "out.h5ad")
    assert "no raw counts" in str(done.exception)


def test_genes_are_named_by_a_column_where_it_is_asked_for(run, tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    cells.var["symbol"] = cells.var_names
    cells.var_names = [f"ENSG{i:011d}" for i in range(60)]
    path = tmp_path / "ids.h5ad"
    cells.write_h5ad(path)
    one, other = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    assert _invoke(path, "--model", run, "-o", one, "--symbols", "symbol").exit_code == 0
    assert _invoke(tiny_set, "--model", run, "-o", other).exit_code == 0
    named, plain = anndata.read_h5ad(one), anndata.read_h5ad(other)
    np.testing.assert_array_equal(named.obsm["X_fedsc"], plain.obsm["X_fedsc"])
    assert list(named.var_names) == list(cells.var_names)
    assert named.uns["fedsc"]["symbols"] == "symbol"
    # A file whose names differ in case says so, and fits when case is folded.
    lower = anndata.read_h5ad(path)
    lower.var_names = [name.lower() for name in lower.var["symbol"].astype(str)]
    lower.write_h5ad(path)
    refused = _invoke(path, "--model", run, "-o", one, "--force")
    assert "differ in case only" in str(refused.exception)
    assert "set fold-case" in str(refused.exception)
    assert _invoke(path, "--model", run, "-o", one, "--force", "--fold-case").exit_code == 0
    folded = anndata.read_h5ad(one)
    np.testing.assert_array_equal(folded.obsm["X_fedsc"], named.obsm["X_fedsc"])
    assert folded.uns["fedsc"]["fold-case"]


def test_names_that_repeat_are_numbered_as_in_a_run_that_did(tiny_run, tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    cells.var_names = [*cells.var_names[:-1], cells.var_names[0]]
    path, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    cells.write_h5ad(path)
    config = tiny_run.replace(dataset=str(path), output=str(tmp_path), make_unique=True, rounds=1)
    run_inprocess(config)
    arguments = (path, "--model", tmp_path / "run", "-o", out)
    assert "repeat (1 in all)" in str(_invoke(*arguments).exception)
    done = _invoke(*arguments, "--make-unique")
    assert "measured: 30 of the model's 30 genes" in done.output
    with pytest.warns(UserWarning, match="not unique"):  # the copy has the file's own names
        written = anndata.read_h5ad(out)
    assert written.uns["fedsc"]["make-unique"]
    fedsc.tl.embed(cells, tmp_path / "run", make_unique=True)
    np.testing.assert_array_equal(cells.obsm["X_fedsc"], written.obsm["X_fedsc"])
