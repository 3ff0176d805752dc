import csv
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import typer
from scipy.sparse import csr_matrix, identity
from typer.testing import CliRunner

from fedsc.cli.split import split
from fedsc.errors import ConfigError, DataError, RunError

app = typer.Typer()
app.command()(split)


def run(*arguments, catch=False):
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], catch_exceptions=catch, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def make(path, cells=60, types=6):
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(0.5, (cells, 20)).astype(np.uint8))
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical([f"t{i % types}" for i in range(cells)]),
            "donor": [f"d {i % 3}" for i in range(cells)],
            "depth": np.asarray(counts.sum(axis=1)).ravel().astype(float),
        },
        index=[f"c{i}" for i in range(cells)],
    )
    var = pd.DataFrame({"length": np.arange(20)}, index=[f"g{i}" for i in range(20)])
    whole = anndata.AnnData(counts, obs, var)
    whole.raw = whole.copy()
    whole = whole[:, :12].copy()
    whole.layers["norm"] = csr_matrix(whole.X.astype(np.float32) * 0.5)
    whole.layers["dense"] = np.arange(cells * 12.0).reshape(cells, 12)
    whole.obsm["X_pca"] = rng.normal(size=(cells, 3))
    whole.obsp["near"] = csr_matrix(identity(cells))
    whole.varm["loadings"] = rng.normal(size=(12, 3))
    whole.uns["note"] = {"who": "me", "n": 3}
    whole.write_h5ad(path)
    return whole


def test_labs_keep_everything_of_their_cells(tmp_path):
    whole = make(tmp_path / "all.h5ad")
    out = tmp_path / "deep" / "labs"
    shown = run(
        tmp_path / "all.h5ad", "-o", out, "--label-key", "kind", "--labs", 3,
        "--subtypes-per-lab", 2, "--seed", 4,
    )  # fmt: skip
    assert "3 files in" in shown
    assert sorted(p.name for p in out.iterdir()) == [
        "lab-0.h5ad", "lab-1.h5ad", "lab-2.h5ad", "split.csv", "split.png"
    ]  # fmt: skip
    seen = []
    for lab in ("lab-0", "lab-1", "lab-2"):
        part = anndata.read_h5ad(out / f"{lab}.h5ad")
        rows = [whole.obs_names.get_loc(name) for name in part.obs_names]
        seen += rows
        assert rows == sorted(rows)
        assert part.X.dtype == np.uint8
        assert (whole.X[rows] != part.X).nnz == 0
        assert (whole.raw.X[rows] != part.raw.X).nnz == 0
        assert part.raw.var.equals(whole.raw.var)
        assert (part.layers["norm"] != whole.layers["norm"][rows]).nnz == 0
        assert np.array_equal(part.layers["dense"], whole.layers["dense"][rows])
        assert np.array_equal(part.obsm["X_pca"], whole.obsm["X_pca"][rows])
        assert np.array_equal(part.varm["loadings"], whole.varm["loadings"])
        assert (part.obsp["near"] != identity(len(rows))).nnz == 0
        assert part.var.equals(whole.var)
        assert part.uns["note"] == {"who": "me", "n": 3}
        assert part.obs["depth"].equals(whole.obs["depth"].iloc[rows])
        assert part.obs["donor"].tolist() == whole.obs["donor"].iloc[rows].tolist()
        assert part.obs["kind"].nunique() == 2
    assert sorted(seen) == list(range(60))

    counts = pd.read_csv(out / "split.csv", index_col="lab")
    assert counts.to_numpy().sum() == 60
    assert ((counts > 0).sum(axis=1) == 2).all()
    assert (out / "split.png").read_bytes().startswith(b"\x89PNG")


def test_split_is_the_one_a_simulation_makes(tmp_path):
    from fedsc.config import Config
    from partitioning import partition_obs

    whole = make(tmp_path / "all.h5ad")
    run(tmp_path / "all.h5ad", "-o", tmp_path / "labs", "--partition", "dirichlet", "--label-key",
        "kind", "--beta", 1, "--min-cells", 3, "--labs", 5, "--seed", 9)  # fmt: skip
    config = Config.of(partition="dirichlet", beta=1.0, min_cells=3, labs=5, seed=9)
    for lab, rows in partition_obs(whole.obs, "kind", config.split, 9).items():
        part = anndata.read_h5ad(tmp_path / "labs" / f"{lab}.h5ad")
        assert list(part.obs_names) == list(whole.obs_names[rows])


def test_column_and_left_out_types(tmp_path):
    make(tmp_path / "all.h5ad")
    shown = run(tmp_path / "all.h5ad", "-o", tmp_path / "donors", "--partition", "column",
                "--partition-key", "donor")  # fmt: skip
    assert "3 files" in shown
    assert sorted(p.stem for p in (tmp_path / "donors").glob("*.h5ad")) == ["d-0", "d-1", "d-2"]

    shown = run(tmp_path / "all.h5ad", "-o", tmp_path / "few", "--label-key", "kind", "--labs", 2,
                "--subtypes-per-lab", 1, "--cover", "drop")  # fmt: skip
    assert "in no lab: 40 cells of type t" in shown


def test_a_named_set_knows_its_labels_and_its_k(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSC_DATA", str(tmp_path))
    cells = make(tmp_path / "mouse_bladder.h5ad", cells=64, types=16)
    cells.obs = cells.obs.rename(columns={"kind": "cell_type"})
    cells.write_h5ad(tmp_path / "mouse_bladder.h5ad")
    run("mouse_bladder", "-o", tmp_path / "labs")
    counts = pd.read_csv(tmp_path / "labs" / "split.csv", index_col="lab")
    assert (counts > 0).sum(axis=1).tolist() == [4] * 4


def test_packaged_set_in_its_old_format(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("pbmc68k_reduced", "-o", tmp_path / "labs", "--partition", "iid", "--labs", 2)
    part = anndata.read_h5ad(tmp_path / "labs" / "lab-0.h5ad")
    assert part.shape == (350, 765)
    assert part.raw.X.shape == (350, 765)


def test_other_formats_are_read_first(tmp_path):
    x = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(float) + np.eye(40, 30)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["X"], file["Y"] = x, np.arange(40) % 4
    run(tmp_path / "set.h5", "-o", tmp_path / "labs", "--subtypes-per-lab", 1, "--label-key", "Y")
    parts = [anndata.read_h5ad(path) for path in sorted((tmp_path / "labs").glob("*.h5ad"))]
    assert [part.n_obs for part in parts] == [10] * 4
    assert sum(part.X.sum() for part in parts) == x.sum()


def test_an_earlier_split_is_replaced_by_force_only(tmp_path):
    make(tmp_path / "all.h5ad")
    out = tmp_path / "labs"
    options = (tmp_path / "all.h5ad", "-o", out, "--partition", "iid")
    run(*options, "--labs", 4)
    with pytest.raises(DataError, match=r"already holds .h5ad files.*--force"):
        run(*options, "--labs", 2)
    assert len(list(out.glob("*.h5ad"))) == 4
    run(*options, "--labs", 2, "--force")
    # A file left over would be a lab of its own.
    assert sorted(path.stem for path in out.glob("*.h5ad")) == ["lab-0", "lab-1"]
    with (out / "split.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["lab", "lab-0", "lab-1"]
    assert not list(out.glob(".*"))


def test_force_spares_files_of_others_and_the_input(tmp_path):
    make(tmp_path / "all.h5ad")
    with pytest.raises(DataError, match=r"holds all.h5ad, which is not of an earlier split"):
        run(tmp_path / "all.h5ad", "-o", tmp_path, "--partition", "iid", "--force")
    out = tmp_path / "out"
    run(tmp_path / "all.h5ad", "-o", out, "--partition", "iid")
    make(out / "lab.h5ad")  # the table's first column is called so
    with pytest.raises(DataError, match=r"holds lab.h5ad, which is not of an earlier split"):
        run(tmp_path / "all.h5ad", "-o", out, "--partition", "iid", "--force")
    (tmp_path / "all.h5ad").rename(tmp_path / "lab-0.h5ad")
    before = (tmp_path / "lab-0.h5ad").read_bytes()
    (tmp_path / "split.csv").write_text("lab,t\nlab-0,1\n")
    with pytest.raises(DataError, match=r"would replace .*lab-0.h5ad"):
        run(tmp_path / "lab-0.h5ad", "-o", tmp_path, "--partition", "iid", "--force")
    assert (tmp_path / "lab-0.h5ad").read_bytes() == before
    with pytest.raises(DataError, match="is a file: name a folder"):
        run(tmp_path / "lab-0.h5ad", "-o", tmp_path / "split.csv", "--partition", "iid")


def test_a_synthetic_file_is_split_and_a_lab_again(fedsc, tmp_path):
    whole, labs = tmp_path / "all.h5ad", tmp_path / "labs"
    sizes = ("--cells", "60", "--genes", "80", "--types", "2", "--markers", "5", "--labs", "2")
    assert fedsc("synthesize", whole, *sizes)[0] == 0
    for source, output in ((whole, labs), (labs / "lab-0.h5ad", tmp_path / "again")):
        code, _, err = fedsc("split", source, "-o", output, "--partition", "iid", "--labs", 2)
        assert code == 0, err
    assert anndata.read_h5ad(tmp_path / "again" / "lab-1.h5ad").n_obs == 15


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    make(tmp_path / "all.h5ad")
    out = tmp_path / "labs"
    run(tmp_path / "all.h5ad", "-o", out, "--partition", "iid")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsc.data.annotated.pack", full)
    with pytest.raises(RunError, match="No space left"):
        run(tmp_path / "all.h5ad", "-o", out, "--partition", "iid", "--labs", 2, "--force")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_bad_options_and_files(tmp_path):
    make(tmp_path / "all.h5ad")
    options = (tmp_path / "all.h5ad", "-o", tmp_path / "labs")
    with pytest.raises(ConfigError, match=r"needs label-key.*'kind', 'donor', 'depth'"):
        run(*options)
    with pytest.raises(ConfigError, match=r"option label-key = 'kin': .*did you mean 'kind'"):
        run(*options, "--partition", "iid", "--label-key", "kin")
    with pytest.raises(ConfigError, match="option partition = 'random'"):
        run(*options, "--partition", "random")
    with pytest.raises(ConfigError, match="option labs = 0"):
        run(*options, "--labs", 0)
    with pytest.raises(ConfigError, match="option subtypes-per-lab = 0"):
        run(*options, "--label-key", "kind", "--subtypes-per-lab", 0)
    (tmp_path / "bad.h5ad").write_text("no")
    with pytest.raises(DataError, match=r"bad.h5ad: cannot be read as .h5ad"):
        run(tmp_path / "bad.h5ad", "-o", tmp_path / "labs", "--partition", "iid")
    with pytest.raises(DataError, match="no such file"):
        run(tmp_path / "none.h5ad", "-o", tmp_path / "labs")
    assert not (tmp_path / "labs").exists()
