"""``fedsc check``: a clear sentence and exit code 2 for every broken file, never a traceback."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import typer
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from fedsc.cli.check import check
from fedsc.cli.examination import candidates

BARCODES = [f"{b}-1" for b in ("AAACATACAA", "AAACCGTGCT", "ACGTACGTAC", "GGGTTTAAAC")]
GENES = ["ACTB", "B2M", "MALAT1", "CD3D", "LYZ"]
COUNTS = np.random.default_rng(0).poisson(3, (4, 5)) + 1


def run(*arguments: str | Path):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def h5ad(path: Path, x=COUNTS, cells=BARCODES, genes=GENES) -> Path:
    obs = pd.DataFrame({"cell_type": (["B", "T"] * len(cells))[: len(cells)]}, index=cells)
    with warnings.catch_warnings(action="ignore"):  # repeated names, text as categories
        anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def hdf5(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


def one_value(value: float) -> np.ndarray:
    x = COUNTS.astype(float)
    x[1, 2] = value
    return x


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def garbled(path: Path) -> Path:
    """Damage the compressed values but not the structure."""
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=np.tile(COUNTS, (50, 1)), compression="gzip")
        chunk = file["X"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    return path


def edited(path: Path, edit: Callable[[h5py.File], None]) -> Path:
    with h5py.File(h5ad(path, csr_matrix(COUNTS)), "a") as file:
        edit(file)
    return path


def out_of_range(file: h5py.File) -> None:
    file["X/indices"][0] = 99


def with_text(file: h5py.File) -> None:
    del file["X"]
    file["X"] = np.full((4, 5), b"a")


def unknown_sparse(file: h5py.File) -> None:
    file["X"].attrs["encoding-type"] = "coo_matrix"


def longer_names(file: h5py.File) -> None:
    del file["var"]
    anndata.io.write_elem(file, "var", pd.DataFrame(index=[*GENES, "UBC"]))


def text_for_obs(file: h5py.File) -> None:
    del file["obs"]
    file["obs"] = "nothing"


def tenx(folder: Path, *, rows: int = 5, drop: str = "", matrix_end: int | None = None) -> Path:
    folder.mkdir()
    entries = [f"{g + 1} {c + 1} {COUNTS[c, g]}" for c in range(4) for g in range(5)]
    head = f"%%MatrixMarket matrix coordinate integer general\n{rows} 4 20\n"
    files = {
        "matrix.mtx": head + "\n".join(entries[:matrix_end]) + "\n",
        "features.tsv": "".join(f"id{g}\t{g}\tGene Expression\n" for g in GENES),
        "barcodes.tsv": "\n".join(BARCODES) + "\n",
    }
    for name, text in files.items():
        if name != drop:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def two_genomes(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["hg19/barcodes"] = file["mm10/barcodes"] = np.array(BARCODES, "S")
    return path


def two_problems(path: Path) -> Path:
    return h5ad(path, one_value(np.nan), genes=["ACTB", "ACTB", "MALAT1", "CD3D", "LYZ"])


CSV = "cell," + ",".join(GENES) + "\n"

BROKEN: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "scaled": (
        lambda d: h5ad(d / "a.h5ad", one_value(-1.5)),
        ["X holds scaled values (negative, down to -1.5) (first: cell 'AAACCGTGCT-1', gene 'MALA"],
    ),
    "a negative count": (
        lambda d: h5ad(d / "a.h5ad", one_value(-2)),
        [
            "X holds 1 negative value, down to -2, and no count is below zero "
            "(first: cell 'AAACCGTGCT-1', gene 'MALAT1')"
        ],
    ),
    "no X": (
        lambda d: edited(h5ad(d / "a.h5ad"), lambda file: file.pop("X")),
        ["the file has no X and no other matrix: write"],
    ),
    "not a number": (
        lambda d: h5ad(d / "a.h5ad", one_value(np.nan)),
        ["1 value that are NaN or infinite (first: cell 'AAACCGTGCT-1', gene 'MALAT1')"],
    ),
    "infinite": (lambda d: h5ad(d / "a.h5ad", one_value(np.inf)), ["NaN or infinite"]),
    "not counts": (
        lambda d: h5ad(d / "a.h5ad", COUNTS * 100.7 + np.sqrt(COUNTS)),
        ["neither raw counts nor log-normalised", "give the counts as they were measured", "round"],
    ),
    "only zeros": (lambda d: h5ad(d / "a.h5ad", 0 * COUNTS), ["X holds only zeros"]),
    "repeated genes": (
        lambda d: h5ad(d / "a.h5ad", genes=["ACTB", "ACTB", "MALAT1", "CD3D", "LYZ"]),
        ["gene names must be unique, but ACTB repeat"],
    ),
    "repeated barcodes": (
        lambda d: h5ad(d / "a.h5ad", cells=[BARCODES[0]] * 2 + BARCODES[2:]),
        ["cell barcodes must be unique, but AAACATACAA-1 repeat"],
    ),
    "transposed": (
        lambda d: h5ad(d / "a.h5ad", COUNTS.T, cells=GENES, genes=BARCODES),
        ["transposed, genes × cells", "(adata.T)"],
    ),
    "transposed table": (
        lambda d: table(
            d / "a.csv", pd.DataFrame(COUNTS.T, GENES, BARCODES).to_csv(lineterminator="\n")
        ),
        ["transposed, genes × cells"],
    ),
    "no cells": (lambda d: h5ad(d / "a.h5ad", COUNTS[:0], cells=[]), ["holds no cells"]),
    "no genes": (lambda d: h5ad(d / "a.h5ad", COUNTS[:, :0], genes=[]), ["holds no genes"]),
    "several at once": (
        lambda d: two_problems(d / "a.h5ad"),
        ["gene names must be unique", "NaN or infinite"],
    ),
    "absent": (lambda d: d / "a.h5ad", ["there is no such file or folder"]),
    "zero bytes": (lambda d: table(d / "a.h5ad", ""), ["is empty (0 bytes)"]),
    "not HDF5": (lambda d: table(d / "a.h5ad", "<html>Not found</html>"), ["is not HDF5"]),
    "truncated": (lambda d: cut(h5ad(d / "a.h5ad"), 0.7), ["is truncated, its end is missing"]),
    "cut to a few bytes": (lambda d: cut(h5ad(d / "a.h5ad"), 0.0001), ["is not HDF5"]),
    "damaged values": (lambda d: garbled(d / "a.h5"), ["cannot be read; it is damaged"]),
    "damaged indices": (
        lambda d: edited(d / "a.h5ad", out_of_range),
        ["cannot be read; it is damaged", "indices must be < 5"],
    ),
    "text for numbers": (lambda d: edited(d / "a.h5ad", with_text), ["/X holds |S1, not numbers"]),
    "unknown storage": (
        lambda d: edited(d / "a.h5ad", unknown_sparse),
        ["/X is stored as 'coo_matrix'"],
    ),
    "names that do not fit": (
        lambda d: edited(d / "a.h5ad", longer_names),
        ["X is 4 cells × 5 genes but 4 cells and 6 genes have names"],
    ),
    "broken annotation": (
        lambda d: edited(d / "a.h5ad", text_for_obs),
        ["cannot be read; it is damaged"],
    ),
    "another HDF5": (
        lambda d: hdf5(d / "a.h5", assays=[1], meta=[2]),
        ["neither h5ad, 10x, loom", "it holds assays, meta"],
    ),
    "X without cells": (lambda d: hdf5(d / "a.h5", X=[1, 2]), ["X has 1 dimensions"]),
    "labels that do not fit": (
        lambda d: hdf5(d / "a.h5", X=COUNTS, Y=[1, 2]),
        ["X holds 4 cells (its rows) but Y holds 2 labels"],
    ),
    "two genomes": (lambda d: two_genomes(d / "a.h5"), ["matrices of 2 genomes (hg19, mm10)"]),
    "R object": (lambda d: table(d / "a.rds", "X\n"), ["is an R object: write it as .h5ad"]),
    "packed h5ad": (lambda d: table(d / "a.h5ad.gz", "x"), ["unpack it first (gunzip)"]),
    "empty folder": (
        lambda d: d,
        ["holds no .h5ad, .h5 or .loom file and no matrix.mtx[.gz] but nothing"],
    ),
    "10x without barcodes": (
        lambda d: tenx(d / "m", drop="barcodes.tsv"),
        ["matrix.mtx.gz has no barcodes.tsv[.gz] beside it"],
    ),
    "10x without features": (
        lambda d: tenx(d / "m", drop="features.tsv"),
        ["no features.tsv[.gz] or genes.tsv[.gz]"],
    ),
    "10x of other size": (
        lambda d: tenx(d / "m", rows=6),
        ["matrix.mtx.gz is 6 × 4, but features.tsv.gz names 5 features"],
    ),
    "10x cut short": (lambda d: tenx(d / "m", matrix_end=7), ["cannot be read; it is damaged"]),
    "10x packed and cut": (
        lambda d: cut(tenx(d / "m") / "matrix.mtx.gz", 0.5),
        ["cannot be read; it is damaged"],
    ),
    "table of text": (
        lambda d: table(d / "a.csv", CSV + "c1,1,2,x,4,5\n"),
        ["column 'MALAT1' holds text ('x')"],
    ),
    "table with a hole": (
        lambda d: table(d / "a.csv", CSV + "c1,1,2,,4,5\n"),
        ["NaN or infinite (first: cell 'c1', gene 'MALAT1')"],
    ),
    "table without header": (
        lambda d: table(d / "a.csv", "0.5,1.5,2.5\n1.5,0.5,1.0\n"),
        ["first line holds numbers: it has to name the genes"],
    ),
    "table with a long line": (
        lambda d: table(d / "a.csv", CSV + "c1,1,2,3,4,5\nc2,1,2,3,4,5,6\n"),
        ["cannot be read; it is damaged", "Expected 6 fields in line 3, saw 7"],
    ),
    "table with a wide body": (
        lambda d: table(d / "a.csv", CSV + "c1,1,2,3,4,5,6,7\n"),
        ["line 1 has 6 columns, line 2 has 8"],
    ),
    "table of a header": (lambda d: table(d / "a.csv", CSV), ["the file holds no cells"]),
    "one column": (lambda d: table(d / "a.csv", "a\nb\n"), ["holds no comma, tab or semicolon"]),
    "binary table": (
        lambda d: (d / "a.csv", (d / "a.csv").write_bytes(b"\x89PNG\xff\x00,\n"))[0],
        ["cannot be read; it is damaged"],
    ),
    "packed table cut": (
        lambda d: cut(
            (d / "a.csv.gz", (d / "a.csv.gz").write_bytes(gzip.compress(CSV.encode() * 99)))[0], 0.6
        ),
        ["cannot be read; it is damaged"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_its_sentence(tmp_path, name):
    make, sentences = BROKEN[name]
    file = make(tmp_path)
    result = run(file)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), result.exception
    verdict, *lines = result.output.splitlines()
    assert verdict == f"{file}: cannot be used"
    problems = [line for line in lines if line.startswith("  problem")]
    assert len(problems) == (2 if name == "several at once" else 1)
    for sentence in sentences:
        assert any(sentence in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--label-key", "celltype"], "did you mean 'cell_type'?); columns are: cell_type"),
        (["--layer", "counts"], "there is no layer 'counts'; it has: X"),
    ],
)
def test_a_wrong_option_gets_its_sentence(tmp_path, options, sentence):
    result = run(h5ad(tmp_path / "a.h5ad"), *options)
    assert result.exit_code == 2
    assert sentence in result.output


def test_formats_without_layers_say_so(tmp_path):
    for file in (hdf5(tmp_path / "a.h5", X=COUNTS), tenx(tmp_path / "m")):
        result = run(file, "--layer", "raw")
        assert result.exit_code == 2
        assert "no 'raw': leave layer out" in result.output


def test_a_good_file_is_described(tmp_path):
    x = np.vstack([COUNTS, np.zeros((1, 5), int)])
    x[:, 3] = 0
    file = h5ad(tmp_path / "a.h5ad", x, cells=[*BARCODES, "TTTTTTTTTT-1"])
    cells = anndata.read_h5ad(file)
    cells.obs.loc["TTTTTTTTTT-1", "cell_type"] = np.nan
    cells.write_h5ad(file)
    result = run(file, "--label-key", "cell_type")
    sizes = np.quantile(x.sum(axis=1), (0, 0.05, 0.5, 0.95, 1))
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{file}: can be used",
        "  cells          5",
        "  genes          5",
        "  kind           raw counts",
        "  library size   min {:.0f}, 5 % {:.0f}, median {:.0f}, 95 % {:.0f}, max {:.0f}".format(
            *sizes
        ),
        "  labels         cell_type: B 2, T 2; no label: 1",
        "  label columns  cell_type (2)",
        "  batch columns  none found",
        "  note           1 cell without any count",
        "  note           1 gene never detected",
        "  note           1 cell without a label in 'cell_type'",
    ]


def test_a_10x_folder_is_described(tmp_path):
    result = run(tenx(tmp_path / "m"))
    assert result.exit_code == 0
    assert "  cells          4\n  genes          5\n" in result.output


def test_columns_that_group_cells_are_sorted_by_what_they_name():
    n = 60
    obs = pd.DataFrame(
        {
            "barcode": [f"c{i}" for i in range(n)],
            "donor": ["a", "b"] * 30,
            "batch": [1, 2, 3] * 20,
            "phase": ["G1", "S", "G2M"] * 20,
            "n_counts": range(n),
            "mito_bin": [0, 1] * 30,
            "leiden": [0, 1, 2, 3] * 15,
            "cell_type": ["B", "T"] * 30,
            "species": ["human"] * n,
            "score": np.linspace(0, 1, n),
        }
    )
    labels, batches = candidates(obs)
    assert labels == ["leiden", "cell_type", "phase"]
    assert batches == ["donor", "batch"]


@pytest.fixture
def folder(tiny_set, tmp_path):
    """Two labs: B has other genes and names its types otherwise."""
    whole = anndata.read_h5ad(tiny_set)
    labs = tmp_path / "labs"
    labs.mkdir()
    whole[:50, :50].copy().write_h5ad(labs / "A.h5ad")
    other = whole[50:, 20:].copy()
    other.obs = other.obs.rename(columns={"cell_type": "annotation"})
    other.write_h5ad(labs / "B.h5ad")
    return labs


def test_a_folder_is_told_lab_by_lab_and_together(folder, tmp_path):
    (folder / "labs.toml").write_text(
        '[A]\nlabel-key = "cell_type"\n[B]\nlabel-key = "annotation"\nbatch-key = "donor"\n'
    )
    done = run(folder, "--plot", tmp_path / "overlap.png", "--min-shared-genes", "20")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert f"{folder / 'A.h5ad'}: can be used" in lines
    together = " ".join(" ".join(lines[lines.index("together") :]).split())
    for words in (
        "2 of 2 can be used",
        "cells 96: A 50, B 46",
        "kinds raw counts: A, B",
        "shared 30 genes in all labs, 60 in any",
        "advice genes = union: only 30 genes are in all labs. A gene",
        "cell types 4 in 2 labs",
        "type0, type1, type2, type3",
    ):
        assert words in together
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_whose_labs_cannot_be_joined_is_told_why(folder):
    cells = anndata.read_h5ad(folder / "B.h5ad")
    cells.X = cells.X.log1p()
    cells.write_h5ad(folder / "B.h5ad")
    done = run(folder)
    assert done.exit_code == 2
    assert "labs bring different kinds of values" in done.output
    (folder / "B.h5ad").write_bytes(b"no file")
    done = run(folder)
    assert done.exit_code == 2
    assert "1 of 2 can be used" in done.output


def test_what_a_run_would_refuse_is_a_problem(folder):
    """By the limits of a run; 30 genes are shared."""
    done = run(folder)
    assert done.exit_code == 2
    assert "the labs share 30 genes, min-shared-genes = 100" in done.output
    assert "union" not in done.output  # which would be refused too
    done = run(folder, "--min-shared-genes", "30")
    assert done.exit_code == 0, done.output
    done = run(folder, "--min-shared-genes", "30", "--min-cells", "47")
    assert done.exit_code == 2
    assert f"{folder / 'B.h5ad'}: cannot be used" in done.output
    assert "46 cells are fewer than min-cells = 47" in done.output
    assert "1 of 2 can be used" in done.output


def test_a_union_that_a_run_takes_is_advised(folder):
    whole = anndata.read_h5ad(folder / "A.h5ad")
    whole[:, :25].copy().write_h5ad(folder / "C.h5ad")
    done = run(folder, "--min-shared-genes", "20")
    assert done.exit_code == 0, done.output
    together = " ".join(done.output.split())
    assert (
        "genes = union: only 5 genes are in all labs, fewer than min-shared-genes = 20" in together
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[C]\n", "there is no lab 'C'; there are A, B"),
        ("[A]\nlabel_key = 'x'\n", "known are label-key"),
        ("[A]\nlabel-key = 3\n", "label-key = 3"),
        ("A = 3\n", "known are label-key"),
        ("[A\n", "cannot be read as TOML"),
    ],
)
def test_a_labs_toml_that_is_none_is_refused(folder, text, words):
    (folder / "labs.toml").write_text(text)
    done = run(folder)
    assert done.exit_code == 1
    assert words in str(done.exception)


def test_a_batch_column_that_is_not_there_is_told(folder):
    (folder / "labs.toml").write_text("[A]\nbatch-key = 'chip'\n")
    done = run(folder)
    assert done.exit_code == 2
    assert "batch-key = 'chip': obs has no such column; it has 'cell_type', 'donor'" in done.output


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (["a", None] * 25, "batch-key = 'chip': 25 of 50 cells have no value"),
        ([f"chip{i}" for i in range(50)], "50 batches in one lab, at most 10"),
    ],
)
def test_a_batch_column_that_a_run_would_refuse_is_told(folder, batches, words, monkeypatch):
    monkeypatch.setattr("fedsc.data.groups.MOST_BATCHES", 10)
    cells = anndata.read_h5ad(folder / "A.h5ad")
    cells.obs["chip"] = batches
    cells.write_h5ad(folder / "A.h5ad")
    for done in (run(folder / "A.h5ad", "--batch-key", "chip"), run(folder, "--batch-key", "chip")):
        assert done.exit_code == 2
        assert words in done.output
    (folder / "labs.toml").write_text("[A]\nbatch-key = 'chip'\n[B]\nbatch-key = 'donor'\n")
    done = run(folder, "--min-shared-genes", "20")
    assert done.exit_code == 2
    assert words in done.output
    assert "1 of 2 can be used" in done.output


def test_labels_that_may_stand_for_none_are_noted(tmp_path):
    file = h5ad(tmp_path / "a.h5ad")
    cells = anndata.read_h5ad(file)
    cells.obs["cell_type"] = ["B", "nan", "Unassigned", "Nanocyte"]
    cells.write_h5ad(file)
    done = run(file, "--label-key", "cell_type")
    assert done.exit_code == 0
    note = "counted as cell types: 'Unassigned', 'nan'; where a cell has no type, leave its label"
    assert note in done.output
    assert "counted as cell types" not in run(file).output


def test_what_is_no_lab_in_a_folder_is_noted_and_so_is_a_lab_alone(folder, tmp_path):
    tenx(folder / "C")
    (folder / "B.h5ad").unlink()
    (folder / "D.csv").write_text("cell,g\n")
    done = run(folder, "--min-shared-genes", "1", "--min-cells", "1")
    assert f"{folder / 'C'}: can be used" in done.output
    assert "no lab, so not read: D.csv; a lab is an .h5ad, .h5 or .loom file" in done.output
    assert "one lab alone" not in done.output
    (folder / "A.h5ad").unlink()
    done = run(folder, "--min-cells", "1")
    assert done.exit_code == 0
    assert "one lab alone: nothing would be federated" in done.output


def test_names_are_repaired_where_it_is_asked_for(tmp_path):
    path = h5ad(tmp_path / "ids.h5ad", genes=["ENSG1", "ENSG2", "ENSG3", "ENSG4", "ENSG4"])
    with h5py.File(path, "r+") as file:
        anndata.io.write_elem(
            file["var"], "name", np.array(["ACTB", "B2M", "B2M", "", "LYZ"], dtype=object)
        )
        file["var"].attrs["column-order"] = ["name"]
    done = run(path)
    assert done.exit_code == 2
    assert "ENSG4 repeat (1 in all): number them (option make-unique, " in done.output
    done = run(path, "--make-unique")
    assert done.exit_code == 0, done.output
    assert "1 names of genes repeated" in done.output
    done = run(path, "--symbols", "name")
    assert done.exit_code == 0, done.output
    assert "named by the column 'name'" in done.output
    assert "2 genes share their symbol" in done.output
    assert "1 genes have no name there" in done.output
    done = run(path, "--symbols", "symbol")
    assert "there is no column 'symbol' of gene names; var has: name" in done.output
