"""Names, labels and notes: what is a fault, what is only worth knowing, what is neither."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from fedsc.data.reading.validate import doubts, label_problems, name_problems, notes

SYMBOLS = np.array(["ACTB", "B2M", "Foxp3", "Malat1", "rps12", "g4"], dtype=object)
ENSEMBL = np.array([f"ENSMUSG{i:011d}" for i in range(6)], dtype=object)
POSITIONS = np.array([f"g{i}" for i in range(6)], dtype=object)
BARCODES = np.array([f"lab1_{b}-1" for b in ("ACGTACGTACGT", "TTTTACGTACGT", "GGGGACGTACGT")])
PLAIN = np.array(["mouse1_lib1.final_cell_0001", "SRR3541305", "cell7"], dtype=object)


@pytest.mark.parametrize("genes", [SYMBOLS, ENSEMBL, POSITIONS])
@pytest.mark.parametrize("cells", [BARCODES, PLAIN])
def test_good_names_pass(genes, cells):
    assert name_problems(genes, cells) == []


@pytest.mark.parametrize(
    ("genes", "cells"),
    [(SYMBOLS, BARCODES), (ENSEMBL, BARCODES), (POSITIONS, BARCODES), (SYMBOLS, PLAIN)],
)
def test_a_transposed_matrix_is_seen_by_its_names(genes, cells):
    (problem,) = name_problems(genes=cells, cells=genes)
    assert problem.startswith("the matrix is transposed, genes × cells: ")
    assert (f"rows are named like genes ({genes[0]}, " in problem) == (genes is not POSITIONS)
    assert (f"columns are named like cells ({cells[0]}, " in problem) == (cells is BARCODES)


def test_a_gene_name_among_cells_is_no_transposition():
    assert name_problems(POSITIONS, np.array(["LYZ", "CD74", "c3", "c4"])) == []


def test_repeated_names_are_listed_once_each():
    genes = np.array(["a", "b", "a", "a", "b", "c", "d", "d", "e", "e"], dtype=object)
    (problem,) = name_problems(genes, np.array(["x", "y"]))
    assert problem.startswith("gene names must be unique, but a, b, d, … repeat (4 in all): ")
    (problem,) = name_problems(np.array(["x", "y"]), np.array(["p", "p"]))
    assert problem.startswith("cell barcodes must be unique, but p repeat (1 in all): ")


def test_nothing_there_is_a_fault():
    nothing = np.array([], dtype=object)
    assert name_problems(nothing, nothing) == ["the file holds no cells", "the file holds no genes"]


OBS = pd.DataFrame(
    {
        "cell_type": ["B", "T", None],
        "cluster": [1.0, 2.0, np.nan],
        "n_counts": [1.5, 2.5, 3.0],
        "nothing": [np.nan] * 3,
    }
)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", None),
        ("cell_type", None),
        ("cluster", None),
        (
            "celltype",
            "there is no label column 'celltype' (did you mean 'cell_type'?); "
            "columns are: cell_type, cluster, n_counts, nothing",
        ),
        (
            "zzz",
            "there is no label column 'zzz'; columns are: cell_type, cluster, n_counts, nothing",
        ),
        ("n_counts", "label column 'n_counts' holds measurements, not cell types"),
        ("nothing", "label column 'nothing' is empty"),
    ],
)
def test_label_columns(key, problem):
    assert label_problems(OBS, key, in_file=False) == ([] if problem is None else [problem])


def test_a_lab_with_another_column_or_none_is_told_where_to_say_so():
    (problem,) = label_problems(OBS, "zzz")
    assert "labs.toml beside it can name another column for this lab, or '' for none" in problem


def test_a_missing_label_column_where_there_is_none_at_all():
    (problem,) = label_problems(pd.DataFrame(index=["a"]), "cell_type", in_file=False)
    assert problem == "there is no label column 'cell_type'; no column describes the cells"


def test_empty_cells_and_silent_genes_are_notes():
    x = csr_matrix([[0, 1, 0], [0, 0, 0], [0, 2, 0]])
    genes = np.array(["ACTB", "B2M", "LYZ"])
    assert notes(x, genes, OBS, "cell_type") == [
        "1 cell without any count",
        "2 genes never detected",
        "1 cell without a label in 'cell_type'",
    ]


def test_full_cells_and_detected_genes_leave_nothing_to_note():
    assert notes(csr_matrix(np.ones((3, 3))), SYMBOLS[:3], OBS, "") == []


@pytest.mark.parametrize("names", [["g0", "g1"], ["0", "1"], ["gene_1", "gene_2"], ["Gene1"]])
def test_names_by_position_are_noted(names):
    x = csr_matrix(np.ones((3, len(names))))
    (note,) = notes(x, np.array(names), OBS, "")
    assert note.startswith(f"genes are named by position ({names[0]}")


def test_labels_that_tell_every_cell_apart_are_noted():
    obs = pd.DataFrame({"barcode": ["a", "b", "c"]})
    (note,) = notes(csr_matrix(np.ones((3, 3))), SYMBOLS[:3], obs, "barcode")
    assert note == "every cell has a label of its own in 'barcode'"


def test_names_with_control_characters_are_refused():
    obs = pd.DataFrame({"type": ["B cell", "T\ncell", None, "T\ncell"]})
    (problem,) = label_problems(obs, "type")
    assert problem == "labels in 'type' must hold no control characters: 'T\\ncell'; rename them"
    (problem,) = name_problems(np.array(["CD3E", "CD\r8A", "CD4", "TP53\u2028"]), np.array(["x"]))
    assert (
        problem
        == "gene names must hold no control characters: 'CD\\r8A', 'TP53\\u2028'; rename them"
    )


def test_genes_whose_names_a_run_would_refuse_are_refused():
    problems = name_problems(np.array(["CD3E", "", "G" * 201, "G" * 200]), np.array(["x"]))
    assert problems[0] == "1 gene without a name: name them, or leave them out"
    assert problems[1].startswith("gene names must have 200 letters at most: 'GGG")
    assert len(problems) == 2


def test_what_passes_as_logarithms_of_normalised_values_is_doubted_where_it_is_none():
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(rng.gamma(0.3, 3.0, (200, 50)))).astype(np.float32)
    normalised = counts.multiply(1e4 / counts.sum(axis=1)).tocsr()
    assert doubts(normalised.log1p().astype(np.float32)) == []
    (said,) = doubts(counts.log1p().astype(np.float32))
    assert "were whole numbers, so cells were not scaled to one library size" in said
    corrected = normalised.multiply(np.geomspace(1, 1e4, 200)[:, None]).tocsr().log1p()
    (said,) = doubts(corrected)
    assert "if these are corrected counts, round them" in said
