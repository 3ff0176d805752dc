"""``fedsc concat``: labs' files as one."""

import anndata
import numpy as np
import pytest

from simulations.inprocess import run_inprocess


@pytest.fixture
def folder(tiny, change, left_by):
    config = change(tiny, method="fedpca", files=True)
    run_inprocess(config)
    return left_by(config).folder


def test_the_labs_of_a_run_are_joined(folder, fedsc, tiny_set, tmp_path):
    out = tmp_path / "all.h5ad"
    code, said, err = fedsc("concat", folder, "-o", out)
    assert code == 0, err
    assert "96 cells of 4 labs" in said
    whole, given = anndata.read_h5ad(out), anndata.read_h5ad(tiny_set)
    given = given[whole.obs_names]
    assert (whole.X != given.X).nnz == 0
    assert list(whole.obs["cell_type"]) == list(given.obs["cell_type"])
    parts = [anndata.read_h5ad(file) for file in sorted((folder / "labs").glob("*.h5ad"))]
    np.testing.assert_array_equal(
        whole.obsm["X_fedsc"], np.concatenate([part.obsm["X_fedsc"] for part in parts])
    )
    assert "rank_genes_groups" in whole.uns


@pytest.mark.parametrize("names", [["nothing"], ["a.h5ad", "nothing"]])
def test_what_is_not_there_is_said_not_to_be_there(fedsc, tiny_set, tmp_path, names):
    (tmp_path / "a.h5ad").symlink_to(tiny_set)
    sources = [tmp_path / name for name in names]
    code, _, err = fedsc("concat", *sources, "-o", tmp_path / "all.h5ad")
    assert code == 2
    assert f"{tmp_path / 'nothing'}: there is no such file or folder" in err.replace("\n", "")


@pytest.mark.slow
def test_cells_of_one_name_are_told_apart_and_files_of_two_runs_are_not_joined(
    folder, fedsc, tmp_path
):
    one, other = tmp_path / "x.fedsc.h5ad", tmp_path / "y.h5ad"
    part = anndata.read_h5ad(folder / "labs" / "lab-0.h5ad")
    part.write_h5ad(one)
    part.write_h5ad(other)
    code, _, err = fedsc("concat", one, other, "-o", tmp_path / "all.h5ad")
    assert code == 0, err
    names = anndata.read_h5ad(tmp_path / "all.h5ad").obs_names
    assert names.is_unique
    assert {name.split("-")[-1] for name in names} == {"x", "y"}
    part.uns["fedsc"]["model"] = "another"
    part.write_h5ad(other)
    code, _, err = fedsc("concat", one, other, "-o", tmp_path / "all.h5ad", "--force")
    assert (code, "of different runs" in err) == (2, True)
    code, _, err = fedsc("concat", one, other, "-o", one)
    assert (code, "is one of the labs' files" in err) == (2, True)


@pytest.mark.slow
def test_what_fedsc_embed_makes_later_joins_the_run_s_own_copies(folder, fedsc, tiny_set, tmp_path):
    late = tmp_path / "late.h5ad"
    assert fedsc("embed", tiny_set, "--model", folder, "-o", late)[0] == 0
    code, said, err = fedsc(
        "concat", folder / "labs" / "lab-0.h5ad", late, "-o", tmp_path / "all.h5ad"
    )
    assert code == 0, err
    assert "of 2 labs" in said


def test_a_run_without_files_and_files_without_results_are_refused(folder, fedsc, tiny_set):
    code, _, err = fedsc("concat", tiny_set, tiny_set.parent / "tiny.h5ad", "-o", "x.h5ad")
    assert (code, "two files have one name" in err) == (2, True)
    for file in (folder / "labs").glob("*.h5ad"):
        file.unlink()
    code, _, err = fedsc("concat", folder, "-o", "x.h5ad")
    assert (code, "no labs' files" in err) == (2, True)
