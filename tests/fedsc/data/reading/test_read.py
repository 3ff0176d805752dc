"""Every format comes out as the same cells × genes, and as anndata's and scanpy's readers say."""

import gzip
import hashlib
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from fedsc.data.reading import memory
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import examine, read
from fedsc.errors import DataError

GENES = ["ACTB", "B2M", "TBCE", "MALAT1", "CD3D", "TBCE", "LYZ"]
IDS = [f"ENSG{i:011d}" for i in range(len(GENES))]
UNIQUE = ["ACTB", "B2M", IDS[2], "MALAT1", "CD3D", IDS[5], "LYZ"]
TYPES = ["B", "T", "B", "NK", "T"]
CELLS = [f"{barcode}-1" for barcode in ("AAACATACAA", "AAACCGTGCT", "ACGTACGTAC", "GGGTTTAAAC")]
CELLS.append("TTTTTTTTTT-1")


@pytest.fixture
def x() -> np.ndarray:
    """Counts whose sums overflow uint8."""
    x = np.random.default_rng(0).integers(0, 250, (len(CELLS), len(GENES)))
    return np.where(x < 120, 0, x).astype(np.uint8)


def annotated(x, genes=UNIQUE) -> anndata.AnnData:
    depth = np.asarray(x.sum(axis=1)).ravel()
    obs = pd.DataFrame({"cell_type": pd.Categorical(TYPES), "depth": depth}, index=CELLS)
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=genes))


def assert_same(expression, x, genes, cells) -> None:
    assert expression.matrix.dtype == np.float32
    assert expression.matrix.nnz == np.count_nonzero(x)
    np.testing.assert_array_equal(expression.matrix.toarray(), np.asarray(x, dtype=np.float32))
    assert expression.genes.tolist() == list(genes)
    assert expression.cells.tolist() == list(cells)
    assert expression.obs.index.tolist() == list(cells)


# h5ad


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32", "float64"])
def test_h5ad_in_any_storage_and_type(tmp_path, x, form, dtype):
    annotated(form(x.astype(dtype))).write_h5ad(tmp_path / "a.h5ad")
    expression = read(tmp_path / "a.h5ad", ReadAs(label_key="cell_type"))
    assert_same(expression, x, UNIQUE, CELLS)
    assert expression.kind == "counts"
    assert expression.labels.tolist() == TYPES
    assert list(expression.obs) == ["cell_type", "depth"]


def test_small_integers_are_cast_before_they_are_added(tmp_path, x):
    annotated(csr_matrix(x)).write_h5ad(tmp_path / "a.h5ad")
    sums = np.asarray(read(tmp_path / "a.h5ad").matrix.sum(axis=1)).ravel()
    assert sums.tolist() == x.sum(axis=1, dtype=int).tolist()
    assert sums.max() > 255


def test_layers_and_raw_are_chosen_by_name(tmp_path, x):
    adata = annotated(csr_matrix(x))
    adata.raw = adata
    adata = adata[:, :4].copy()
    adata.layers["doubled"] = 2 * adata.X.astype(int)
    adata.X = np.log1p(adata.X.toarray() / 3).astype("f4")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad").kind == "lognorm"
    doubled = read(tmp_path / "a.h5ad", ReadAs(layer="doubled"))
    assert_same(doubled, 2 * x[:, :4].astype(int), UNIQUE[:4], CELLS)
    assert_same(read(tmp_path / "a.h5ad", ReadAs(layer="raw")), x, UNIQUE, CELLS)
    assert examine(tmp_path / "a.h5ad").notes[-2:] == (
        "layer 'doubled' holds raw counts",
        "adata.raw holds raw counts",
    )


def test_a_missing_layer_says_which_exist(tmp_path, x):
    adata = annotated(x)
    adata.layers["spliced"] = adata.X
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"no layer 'splced'; it has: X, layer 'spliced'"):
        read(tmp_path / "a.h5ad", ReadAs(layer="splced"))


def test_a_file_without_x_says_what_it_has(tmp_path, x):
    adata = annotated(x)
    adata.layers["counts"] = adata.X
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"the file has no X; it has: layer 'counts'"):
        read(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad", ReadAs(layer="counts")).kind == "counts"


def test_a_damaged_layer_does_not_stop_the_others(tmp_path, x):
    adata = annotated(x)
    adata.layers["good"] = csr_matrix(x)
    adata.layers["bad"] = csr_matrix(x)
    adata.X = x - 300.0
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["layers/bad/indices"][0] = 99
    with pytest.raises(DataError, match=r"set layer = 'good' \(--layer good; .* layer=good\)$"):
        read(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="cannot be read; it is damaged"):
        read(tmp_path / "a.h5ad", ReadAs(layer="bad"))


def pbmc68k() -> Path:
    spec = find_spec("scanpy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets/10x_pbmc68k_reduced.h5ad"


def test_scaled_x_is_refused_with_a_way_out():
    with pytest.raises(DataError) as caught:
        read(pbmc68k())
    assert str(caught.value).endswith(
        "X holds scaled values (negative, down to -2.032) (first: cell 'AAAGCCTGGCTAAC-1', "
        "gene 'HES4'); adata.raw holds log-normalised values: set layer = 'raw' (--layer raw; of "
        "fedsc run --set layer=raw)"
    )


def test_files_older_than_anndata_0_7_read():
    expression = read(pbmc68k(), ReadAs(layer="raw", label_key="bulk_labels"))
    with warnings.catch_warnings(action="ignore"):
        adata = anndata.read_h5ad(pbmc68k())
    assert_same(expression, adata.raw.X.toarray(), adata.raw.var_names, adata.obs_names)
    assert expression.kind == "lognorm"
    assert expression.labels.tolist() == adata.obs["bulk_labels"].tolist()
    assert list(expression.obs) == list(adata.obs)


# 10x


def write_tenx_h5(path: Path, x, *, version: int, kinds=None) -> None:
    matrix = csr_matrix(x)  # features × cells by column
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["data"], group["indices"] = matrix.data.astype("i4"), matrix.indices.astype("i8")
        group["indptr"], group["shape"] = matrix.indptr.astype("i8"), np.array(x.shape[::-1])
        group["barcodes"] = np.array(CELLS, dtype="S")
        if version == 3:
            features = group.create_group("features")
            features["id"], features["name"] = np.array(IDS, "S"), np.array(GENES, "S")
            features["feature_type"] = np.array(kinds or ["Gene Expression"] * len(IDS), "S")
            features["genome"] = np.array(["GRCh38"] * len(IDS), "S")
        else:
            group["genes"], group["gene_names"] = np.array(IDS, "S"), np.array(GENES, "S")


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5_equals_scanpys_reader(tmp_path, x, version):
    import scanpy as sc

    write_tenx_h5(tmp_path / "a.h5", x, version=version)
    expression = read(tmp_path / "a.h5")
    with warnings.catch_warnings(action="ignore"):
        theirs = sc.read_10x_h5(tmp_path / "a.h5")
    assert_same(expression, theirs.X.toarray(), UNIQUE, theirs.obs_names)
    assert_same(expression, x, UNIQUE, CELLS)


def test_10x_features_other_than_genes_are_left_out_and_named(tmp_path, x):
    kinds = ["Gene Expression"] * 5 + ["Antibody Capture"] * 2
    write_tenx_h5(tmp_path / "a.h5", x, version=3, kinds=kinds)
    examination = examine(tmp_path / "a.h5")
    assert_same(examination.expression, x[:, :5], GENES[:5], CELLS)
    assert "features left out: 2 of Antibody Capture" in examination.notes[0]


def test_10x_repeated_symbols_are_noted(tmp_path, x):
    write_tenx_h5(tmp_path / "a.h5", x, version=3)
    assert examine(tmp_path / "a.h5").notes == (
        f"2 genes share their symbol with another (TBCE, …) and are called by their identifier "
        f"({IDS[2]}, …)",
    )


def write_mtx(folder: Path, x, *, features="features.tsv.gz", prefix="", types=True) -> None:
    folder.mkdir(exist_ok=True)
    packed = features.endswith(".gz")
    ending = ".gz" if packed else ""
    columns = [IDS, GENES] + ([["Gene Expression"] * len(IDS)] if types else [])
    tables = {
        features: "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True)),
        f"barcodes.tsv{ending}": "".join(cell + "\n" for cell in CELLS),
    }
    mmwrite(folder / "plain.mtx", csr_matrix(x.T.astype(int)))
    tables[f"matrix.mtx{ending}"] = (folder / "plain.mtx").read_text()
    (folder / "plain.mtx").unlink()
    for name, text in tables.items():
        data = gzip.compress(text.encode()) if packed else text.encode()
        (folder / f"{prefix}{name}").write_bytes(data)


@pytest.mark.parametrize("features", ["features.tsv.gz", "genes.tsv"])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_10x_folders_equal_scanpys_reader(tmp_path, x, features, prefix):
    import scanpy as sc

    write_mtx(tmp_path / "m", x, features=features, prefix=prefix, types=features != "genes.tsv")
    with warnings.catch_warnings(action="ignore"):
        theirs = sc.read_10x_mtx(tmp_path / "m", prefix=prefix, make_unique=False)
    expression = read(tmp_path / "m")
    assert_same(expression, theirs.X.toarray(), UNIQUE, theirs.obs_names)
    assert_same(expression, x, UNIQUE, CELLS)


def test_unpacked_features_of_starsolo_read(tmp_path, x):
    write_mtx(tmp_path / "m", x, features="features.tsv")
    assert_same(read(tmp_path / "m"), x, UNIQUE, CELLS)


def test_one_of_several_matrices_is_named_by_its_file(tmp_path, x):
    write_mtx(tmp_path / "m", x, prefix="a_")
    write_mtx(tmp_path / "m", x * 0 + 1, prefix="b_")
    with pytest.raises(DataError, match=r"several matrices \(a_matrix.mtx.gz, b_matrix.mtx.gz\)"):
        read(tmp_path / "m")
    assert_same(read(tmp_path / "m/b_matrix.mtx.gz"), x * 0 + 1, UNIQUE, CELLS)


def test_10x_folders_are_counted_before_they_are_loaded(tmp_path, x, monkeypatch):
    write_mtx(tmp_path / "m", x)
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    with pytest.raises(DataError, match="GiB of memory"):
        read(tmp_path / "m")


# loom


def test_loom_reads_without_loompy(tmp_path, x):
    with h5py.File(tmp_path / "a.loom", "w") as file:
        file.create_dataset("matrix", data=x.T, chunks=(2, 2), compression="gzip")
        file["layers/spliced"] = x.T // 2
        file["row_attrs/Gene"], file["row_attrs/Accession"] = GENES, IDS
        file["col_attrs/CellID"], file["col_attrs/Class"] = np.array(CELLS, "S"), TYPES
        file["col_attrs/Age"], file["col_attrs/tSNE"] = np.arange(5.0), np.zeros((5, 2))
        file.create_group("col_graphs")
    expression = read(tmp_path / "a.loom", ReadAs(label_key="Class"))
    assert_same(expression, x, UNIQUE, CELLS)
    assert expression.labels.tolist() == TYPES
    assert sorted(expression.obs) == ["Age", "Class"]
    assert_same(read(tmp_path / "a.loom", ReadAs(layer="spliced")), x // 2, UNIQUE, CELLS)
    with pytest.raises(DataError, match="no layer 'raw'; the file has: spliced"):
        read(tmp_path / "a.loom", ReadAs(layer="raw"))


# tables


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
def test_tables_equal_anndatas_reader(tmp_path, x, ending):
    file = tmp_path / f"a{ending}"
    separator = "\t" if "tsv" in ending else ","
    pd.DataFrame(x, CELLS, UNIQUE).to_csv(file, sep=separator)
    expression = read(file)
    assert_same(expression, x, UNIQUE, CELLS)
    theirs = anndata.io.read_csv(file, delimiter=separator)
    assert_same(expression, theirs.X, theirs.var_names, theirs.obs_names)


def test_a_label_column_of_a_table_becomes_annotation(tmp_path, x):
    frame = pd.DataFrame(x, CELLS, UNIQUE)
    frame.insert(3, "type", TYPES)
    frame.to_csv(tmp_path / "a.csv")
    expression = read(tmp_path / "a.csv", ReadAs(label_key="type"))
    assert_same(expression, x, UNIQUE, CELLS)
    assert expression.labels.tolist() == TYPES
    with pytest.raises(DataError, match=r"'type' holds text \('B'\).*use --label-key type"):
        read(tmp_path / "a.csv")


def test_tables_as_r_and_excel_write_them(tmp_path, x):
    pd.DataFrame(x, CELLS, UNIQUE).to_csv(tmp_path / "a.csv", sep=";", encoding="utf-8-sig")
    assert_same(read(tmp_path / "a.csv"), x, UNIQUE, CELLS)
    text = (tmp_path / "a.csv").read_text("utf-8-sig")
    (tmp_path / "r.tsv").write_text(text[1:].replace(";", "\t"))  # no corner
    assert_same(read(tmp_path / "r.tsv"), x, UNIQUE, CELLS)


def test_long_tables_are_read_in_pieces(tmp_path, x, monkeypatch):
    from fedsc.data.reading import text

    monkeypatch.setattr(text, "SLAB", 16)
    frame = pd.DataFrame(x, CELLS, UNIQUE)
    frame["type"] = TYPES
    frame.to_csv(tmp_path / "a.csv")
    expression = read(tmp_path / "a.csv", ReadAs(label_key="type"))
    assert_same(expression, x, UNIQUE, CELLS)
    assert expression.labels.tolist() == TYPES


def test_a_cell_may_be_named_as_if_it_were_missing(tmp_path):
    (tmp_path / "a.csv").write_text("cell,GENEA,GENEB,type\nNA,1,2,x\n007,3,0,NA\nnull,4,1,y\n")
    expression = read(tmp_path / "a.csv", ReadAs(label_key="type"))
    assert expression.cells.tolist() == ["NA", "007", "null"]
    assert expression.labels.tolist() == ["x", "", "y"]


# X and Y


@pytest.mark.parametrize("labels", [np.array([1, 2, 1, 3, 2]), np.array([1.0, 2, 1, 3, 2])])
def test_scdeepcluster_files_carry_their_labels(tmp_path, x, labels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"], file["Y"] = x.astype(float), labels
    expression = read(tmp_path / "a.h5")
    assert_same(expression, x, [f"g{i}" for i in range(7)], [f"c{i}" for i in range(5)])
    assert expression.label_key == "Y"
    assert expression.labels.tolist() == ["1", "2", "1", "3", "2"]
    assert "named by position" in examine(tmp_path / "a.h5").notes[0]


def test_scdeepcluster_files_may_name_genes_and_lack_labels(tmp_path, x):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"], file["gene_names"], file["batch"] = x, UNIQUE, TYPES
    expression = read(tmp_path / "a.h5")
    assert_same(expression, x, UNIQUE, [f"c{i}" for i in range(5)])
    assert expression.labels is None
    assert expression.obs["batch"].tolist() == TYPES


# What holds for all


@pytest.mark.parametrize("corrected", [False, True])
def test_corrected_counts_that_pass_as_logarithms_are_noted(tmp_path, corrected):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 3, 200), (60, 200)) * rng.uniform(0.7, 1, (60, 200))
    alike = np.log1p(counts / counts.sum(axis=1, keepdims=True) * rng.uniform(1e3, 1e4, (60, 1)))
    x = np.minimum(counts, 19) if corrected else alike
    anndata.AnnData(x).write_h5ad(tmp_path / "a.h5ad")
    found = examine(tmp_path / "a.h5ad")
    assert found.kind == "lognorm"
    assert any("corrected counts, round them" in note for note in found.notes) == corrected


def test_the_file_is_left_as_it_was(tmp_path, x):
    annotated(x).write_h5ad(tmp_path / "a.h5ad")
    before = hashlib.sha256((tmp_path / "a.h5ad").read_bytes()).digest()
    read(tmp_path / "a.h5ad")
    assert hashlib.sha256((tmp_path / "a.h5ad").read_bytes()).digest() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5ad"]


def test_formats_are_known_by_content_not_by_name(tmp_path, x):
    annotated(x).write_h5ad(tmp_path / "a.h5ad")
    shutil.copy(tmp_path / "a.h5ad", tmp_path / "a.h5")
    assert_same(read(str(tmp_path / "a.h5")), x, UNIQUE, CELLS)


def test_all_problems_come_at_once_each_on_a_line_with_the_file(tmp_path, x):
    values = x.astype(float)
    values[1, 2], values[0, 0] = np.nan, -1
    with warnings.catch_warnings(action="ignore"):
        adata = annotated(values, genes=GENES)
        adata.obs_names = ["same"] * 5
        adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.h5ad", ReadAs(label_key="celltype"))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path / 'a.h5ad'}: ") for line in lines)
    parts = ["gene names must", "barcodes must", "did you mean 'cell_type'?", "NaN", "negative"]
    assert [part in line for part, line in zip(parts, lines, strict=True)] == [True] * 5


def test_too_large_files_are_refused_from_their_header(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        annotation = pd.DataFrame(index=["a", "b"])
        anndata.io.write_elem(file, "obs", annotation)
        anndata.io.write_elem(file, "var", annotation)
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": [2, 2]})
        for name in ("data", "indices"):  # 10^12 values that were never written
            group.create_dataset(name, (10**12,), "u1", chunks=(10**6,))
        group["indptr"] = [0, 1, 10**12]
    with pytest.raises(DataError, match=r"needs about 11,175.9 GiB of memory and [\d.,]+ GiB"):
        read(tmp_path / "a.h5ad")
    assert len(examine(tmp_path / "a.h5ad", ReadAs(label_key="cell_type")).problems) == 2
    assert (tmp_path / "a.h5ad").stat().st_size < 10**6


def test_dense_files_are_counted_as_sparse(tmp_path, monkeypatch):
    names = pd.DataFrame(index=[f"n{i}" for i in range(500)])
    anndata.AnnData(np.eye(300, 500), obs=names[:300], var=names).write_h5ad(tmp_path / "a.h5ad")
    dense_bytes = 300 * 500 * 8
    monkeypatch.setattr(memory, "available_memory", lambda: dense_bytes // 2)
    assert read(tmp_path / "a.h5ad").matrix.nnz == 300


REAL = {
    "10x_pbmc_4271_top2000": (4271, 2000, "counts"),
    "baron_mouse_pancreas": (1886, 14878, "counts"),
    "cellmix_3lines_3protocols": (1345, 832, "counts"),
    "cellmix_5batches_2protocols": (1021, 11533, "counts"),
    "hao_pbmc_1336": (1336, 5284, "counts"),
    "kang_ifn_pbmc_1556": (1556, 1267, "counts"),
    "kang_ifn_pbmc_donors": (955, 10141, "counts"),
    "mouse_bladder_2100_allgenes": (2100, 20670, "counts"),
    "mouse_bladder_2746_top2003": (2746, 2003, "counts"),
    "pancreas_cepo_3labs": (528, 1403, None),
    "pancreas_xin_674_lognorm": (674, 980, "lognorm"),
    "pbmc3k_2638": (2638, 13656, "counts"),
    "pbmc_3techs_1200": (1200, 1767, "counts"),
    "pbmc_4studies": (7534, 3036, "counts"),
    "worm_neuron_4186": (4186, 13488, "counts"),
    "young_human_kidney_5685_top2000": (5685, 2000, "counts"),
    "zheng_facs_pbmc_3774": (3774, 16791, "counts"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(real_data, name):
    cells, genes, kind = REAL[name]
    examination = examine(real_data(name), ReadAs(label_key="cell_type"))
    assert examination.shape == (cells, genes)
    assert examination.kind == kind
    if kind is None:
        assert len(examination.problems) == 1
        assert "neither raw counts nor log-normalised" in examination.problems[0]
    else:
        assert examination.problems == ()
        assert examination.expression.matrix.shape == (cells, genes)
        assert examination.expression.labels.shape == (cells,)


def test_a_real_file_equals_anndatas_reader(real_data):
    theirs = anndata.read_h5ad(real_data("worm_neuron_4186"))
    expression = read(real_data("worm_neuron_4186"), ReadAs(label_key="cell_type"))
    assert expression.matrix.sum(dtype=np.float64) == theirs.X.sum(dtype=np.int64)
    assert (expression.matrix != theirs.X.astype("f4")).nnz == 0
    pd.testing.assert_frame_equal(expression.obs, theirs.obs, check_names=False)


def test_case_of_gene_names_is_folded_when_asked_and_told(x, tmp_path):
    mouse = [name.capitalize() for name in UNIQUE]
    annotated(x, mouse).write_h5ad(tmp_path / "mouse.h5ad")
    assert list(read(tmp_path / "mouse.h5ad").genes) == mouse
    found = examine(tmp_path / "mouse.h5ad", ReadAs(fold_case=True))
    assert list(found.expression.genes) == [name.upper() for name in mouse]
    assert list(found.expression.columns) == mouse
    assert "7 gene names are spelt in capitals (fold-case)" in found.notes
