import json
import os
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

import fedsc
from fedsc.cli.fit import fit
from fedsc.errors import ConfigError, DataError, RunError

app = typer.Typer()
app.command()(fit)


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    types = np.arange(45) % 3
    rates = np.where(np.arange(60) // 20 == types[:, None], 6.0, 0.3)
    adata = anndata.AnnData(
        csr_matrix(rng.poisson(rates).astype(np.float32)),
        obs=pd.DataFrame(
            {"type": pd.Categorical(types.astype(str))}, index=[f"c{i}" for i in range(45)]
        ),
        var=pd.DataFrame(index=[f"gene-{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(60)]),
        obsm={"X_mine": np.ones((45, 2))},
        uns={"mine": "kept"},
    )
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_copy_with_results_a_record_and_scores(file, tmp_path):
    before, out = file.read_bytes(), tmp_path / "out"
    result = call("pca", file, "--label-key", "type", "--k", "true", "--output", out)
    assert result.exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == ["cells.h5ad", "fit.json", "scores.json"]
    assert file.read_bytes() == before
    copy = anndata.read_h5ad(out / "cells.h5ad")
    assert copy.obsm["X_fedsc_pca"].shape == (45, 44)
    assert list(copy.obs["fedsc_pca"].cat.categories) == ["0", "1", "2"]
    assert copy.uns["mine"] == "kept"
    np.testing.assert_array_equal(copy.obsm["X_mine"], 1)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["ari"] == pytest.approx(1.0)
    assert "TAKEN FROM THE LABELS (3 types in 'type')" in result.output
    assert "TAKEN FROM THE LABELS" in json.loads((out / "fit.json").read_text())["k is"]
    assert "TAKEN FROM THE LABELS" in copy.uns["fedsc_pca"]["k is"]


def test_mask_sc_exports_and_draws_its_attention(file, tmp_path):
    out = tmp_path / "out"
    small = ("--set", "side=8", "--set", "epochs=2", "--set", "warmup=1")
    result = call("mask-sc", file, "--k", "3", *small, "--label-key", "type", "--output", out)
    assert result.exit_code == 0
    with np.load(out / "extras.npz") as extras:
        assert extras["attention_mean"].shape == (45, len(extras["patch_places"]))
    assert (out / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_without_labels_no_scores_file(file, tmp_path):
    out = tmp_path / "out"
    assert call("leiden", file, "--output", out).exit_code == 0
    assert not (out / "scores.json").exists()
    assert json.loads((out / "fit.json").read_text())["clusters"]["by"] == "leiden"


def test_the_same_again_says_so_and_changes_nothing(file, tmp_path):
    out = tmp_path / "out"
    arguments = ("pca", file, "--k", "3", "--output", out)
    call(*arguments)
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = call(*arguments)
    assert again.exit_code == 0
    assert "already holds this fit" in " ".join(again.output.split())
    assert times == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}


def test_another_fit_in_the_same_folder_is_refused(file, tmp_path):
    out = tmp_path / "out"
    call("pca", file, "--k", "3", "--output", out)
    with pytest.raises(RunError, match=r"holds another fit \(k = '3'; asked for now: k = '4'\)"):
        call("pca", file, "--k", "4", "--output", out)


@pytest.mark.parametrize("folder", [False, True])
def test_a_fit_of_cells_that_have_changed_is_refused(file, tmp_path, folder):
    if folder:
        file = tmp_path / "10x"
        file.mkdir()
        (file / "matrix.mtx").write_text(
            "%%MatrixMarket matrix coordinate integer general\n3 4 5\n"
            "1 1 4\n2 2 5\n3 3 6\n1 4 7\n2 4 1\n"
        )
        (file / "features.tsv").write_text("".join(f"id{i}\tgene-{i}\n" for i in "abc"))
        (file / "barcodes.tsv").write_text("a\nb\nc\nd\n")
    out = tmp_path / "out"
    arguments = ("nmf", file, "--k", "2", "--set", "iterations=2", "--output", out)
    call(*arguments)
    assert "already holds this fit" in " ".join(call(*arguments).output.split())
    changed = file / "barcodes.tsv" if folder else file
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    with pytest.raises(RunError, match="from before it, or its source, changed; choose another"):
        call(*arguments)
    record = out / "fit.json"
    record.write_text("{}")
    with pytest.raises(RunError, match=r"fit\.json is damaged"):
        call(*arguments)


def test_a_fit_whose_source_has_changed_is_refused(tmp_path):
    file, source = tmp_path / "cells.h5ad", tmp_path / "atlas.h5ad"
    counts = np.random.default_rng(0).poisson(2, (45, 120)).astype(np.float32)
    anndata.AnnData(csr_matrix(counts)).write_h5ad(file)
    shutil.copy(file, source)
    arguments = ("nmf", file, "--k", "2", "--set", f"source={source}", "--output", tmp_path / "out")
    call(*arguments)
    assert "already holds this fit" in " ".join(call(*arguments).output.split())
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    with pytest.raises(RunError, match="or its source, changed"):
        call(*arguments)


def test_a_fit_that_fails_leaves_no_empty_folder(file, tmp_path):
    for out in (tmp_path / "new", tmp_path / "mine"):
        if out.name == "mine":
            out.mkdir()
        with pytest.raises(DataError, match="none are known"):
            call("pca", file, "--k", "true", "--output", out)
        assert out.exists() == (out.name == "mine")


def test_overrides_preset_and_seed_reach_the_method(file, tmp_path):
    out = tmp_path / "out"
    call(
        *("contrastive-sc", file, "--k", "3", "--output", out, "--preset", "steady"),
        *("--set", "epochs=2", "--set", "learning-rate=0.01", "--seed", "5"),
    )
    record = json.loads((out / "fit.json").read_text())
    assert record["preset"]["epochs"] == 2
    assert record["preset"]["learning_rate"] == 0.01
    assert record["preset"]["max_value"] == 10.0
    assert record["request"]["seed"] == 5
    assert len(record["losses"]) == 2


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(file, tmp_path, monkeypatch):
    arguments = ["scdeepcluster", file, "--k", "3", "--set", "pretraining-epochs=3"]
    arguments += ["--set", "clustering-epochs=2", "--set", "tolerance=0"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    call(*arguments, "--output", whole)

    def interrupt(self, phase, done, total, words):
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedsc.cli.fit.Bars.show", interrupt)
        stopped = call(*arguments, "--output", out)
    assert stopped.exit_code == 130
    assert "the same command goes on" in " ".join(stopped.output.split())
    assert [p.name for p in out.iterdir()] == ["checkpoint"]
    assert call(*arguments, "--output", out).exit_code == 0
    one, two = (anndata.read_h5ad(folder / "cells.h5ad") for folder in (whole, out))
    np.testing.assert_array_equal(
        one.obsm["X_fedsc_scdeepcluster"], two.obsm["X_fedsc_scdeepcluster"]
    )


def test_other_formats_become_h5ad(file, tmp_path):
    adata = anndata.read_h5ad(file)
    pd.DataFrame(
        adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names
    ).to_csv(tmp_path / "table.csv")
    out = tmp_path / "out"
    call("nmf", tmp_path / "table.csv", "--k", "3", "--set", "iterations=10", "--output", out)
    copy = anndata.read_h5ad(out / "table.h5ad")
    assert list(copy.obs_names) == list(adata.obs_names)
    assert set(copy.obs["fedsc_nmf"]) == {"0", "1", "2"}
    with np.load(out / "extras.npz", allow_pickle=False) as extras:
        assert extras["gene_factors"].shape == (3, 60)
        assert list(extras["factor_genes"]) == list(adata.var_names)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nope"], ConfigError, "unknown method 'nope'; known are pca, leiden"),
        (["pca", "--k", "x"], ConfigError, "k = 'x': should be a number"),
        (["pca", "--k", "46"], ConfigError, "k = 46 clusters cannot be made of 45 cells"),
        (["pca", "--k", "true"], DataError, "none are known"),
        (["pca", "--label-key", "typ"], DataError, "did you mean 'type'"),
        (["pca", "--set", "component=2"], ConfigError, "did you mean 'components'"),
        (["pca", "--preset", "nope"], ConfigError, "unknown preset 'nope'"),
        (["leiden", "--k", "3"], ConfigError, "leiden finds the number"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_half_done(file, tmp_path, arguments, error, message):
    out = tmp_path / "out"
    method, *rest = arguments
    with pytest.raises(error, match=message):
        call(method, file, *rest, "--output", out)
    assert not (out / "fit.json").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        call("pca", tmp_path / "nope.h5ad", "--output", tmp_path / "out")


def test_the_input_is_never_overwritten(file):
    with pytest.raises(ConfigError, match="choose another folder"):
        call("pca", file, "--output", file.parent)


def test_names_are_repaired_as_in_a_run(file, tmp_path):
    cells = anndata.read_h5ad(file)
    cells.var_names = [*cells.var_names[:-1], "gene-aa"]
    cells.write_h5ad(file)
    with pytest.raises(DataError, match=r"gene-aa repeat .*option make-unique"):
        call("nmf", file, "--k", 3, "--output", tmp_path / "no")
    said = ("--make-unique", "--fold-case", "--set", "iterations=5", "--k", 3)
    call("nmf", file, *said, "--output", tmp_path / "yes")
    names = np.load(tmp_path / "yes" / "extras.npz", allow_pickle=True)["factor_genes"]
    assert (names[0], names[-1]) == ("GENE-AA", "GENE-AA-1")
    with pytest.raises(RunError, match="fold_case = True; asked for now: fold_case = False"):
        call("nmf", file, *said[:1], *said[2:], "--output", tmp_path / "yes")
    fedsc.tl.nmf(cells, k=3, make_unique=True, fold_case=True, overrides={"iterations": 5})
    assert cells.uns["fedsc_nmf"]["make_unique"]
