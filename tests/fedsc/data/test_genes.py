import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedsc.data.genes import (
    agree,
    case_note,
    fold_case,
    is_positional,
    match,
    read_reference,
    refuse_other_positions,
)
from fedsc.data.reading.validate import notes
from fedsc.errors import DataError

A = ["ACTB", "CD3D", "GNLY", "NKG7"]
B = ["NKG7", "MS4A1", "CD3D", "ACTB"]


def test_intersection_union_reference():
    labs = {"a": A, "b": B}
    assert agree(labs, "intersection", None, 3).tolist() == ["ACTB", "CD3D", "NKG7"]
    assert agree(labs, "union", None, 3).tolist() == ["ACTB", "CD3D", "GNLY", "MS4A1", "NKG7"]
    reference = ["GNLY", "NKG7", "ACTB", "FOXP3"]
    assert agree(labs, "reference", reference, 2).tolist() == ["ACTB", "GNLY", "NKG7"]


def test_of_ensembl_ids_neither_version_nor_case_counts():
    ids = {
        "a": ["ENSG00000000003.15", "ENSG00000000419"],
        "b": ["ensg00000000003", "ENSG00000000419.2"],
    }
    assert agree(ids, "intersection", None, 2).tolist() == ["ENSG00000000003.15", "ENSG00000000419"]
    ids["c"] = ["ENSG00000000003.15", "ENSG00000000419.2"]
    assert agree(ids, "intersection", None, 2)[1] == "ENSG00000000419.2"  # the commonest
    assert agree(ids, "reference", ["ENSG00000000003"], 1).tolist() == ["ENSG00000000003"]


def test_symbols_of_two_species_are_not_joined_and_it_is_said():
    labs = {"man": ["WASH7P", "ACTB", "X"], "mouse": ["Wash7p", "Actb", "X"], "more": ["ACTB", "X"]}
    assert agree(labs, "intersection", None, 1).tolist() == ["X"]
    assert agree(labs, "union", None, 1).tolist() == ["ACTB", "Actb", "WASH7P", "Wash7p", "X"]
    assert match(["Actb", "X"], ["ACTB", "X"]).tolist() == [-1, 1]
    assert case_note(labs) == (
        "2 gene names differ in case only (ACTB and Actb, WASH7P and Wash7p) and count as "
        "different genes: they may be of two species; if they are the same genes, set fold-case"
    )
    with pytest.raises(DataError, match=r"share 1 genes.*2 gene names differ in case only"):
        agree(labs, "intersection", None, 2)


def test_two_genes_of_every_lab_are_no_odd_spelling():
    fly = ["dl", "Dl", "w"]
    assert case_note({"a": fly, "b": fly[::-1]}) is None
    assert case_note({"a": fly, "b": ["dl"]}) is None  # one of the two was not measured
    assert "DL, Dl" in case_note({"a": ["Dl"], "b": ["DL"]}).replace(" and ", ", ")
    assert case_note({"a": ["ENSG00000000003.1"], "b": ["ensg00000000003"]}) is None


def test_versions_are_only_cut_from_ensembl_ids():
    labs = {"a": ["AL627309.1", "ACTB"], "b": ["AL627309.2", "ACTB"]}
    assert agree(labs, "intersection", None, 1).tolist() == ["ACTB"]
    par = ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y"]
    assert agree({"a": par, "b": par[::-1]}, "intersection", None, 2).tolist() == par


def test_ids_that_collide_in_one_lab_match_exactly_everywhere():
    one, two, other = "ENSG00000000003.1", "ENSG00000000003.2", "ENSG00000000419.1"
    labs = {
        "a": [one, two, other],
        "b": [two, "ENSG00000000419.7"],
        "c": ["ENSG00000000003", other],
    }
    assert agree(labs, "intersection", None, 1).tolist() == [other]
    assert agree(labs, "union", None, 1).tolist() == ["ENSG00000000003", one, two, other]
    assert match([two, "ENSG00000000003"], [one, two]).tolist() == [1, -1]  # which one?
    assert match([one, two], ["ENSG00000000003"]).tolist() == [-1, -1]


names = st.text(alphabet="aAbBcD1", min_size=1, max_size=3).map(lambda s: "x" + s + "z")
gene_lists = st.lists(st.lists(names, min_size=1, max_size=12, unique=True), min_size=1, max_size=4)


@settings(deadline=None)
@given(gene_lists, st.sampled_from(["intersection", "union"]), st.randoms(use_true_random=False))
def test_neither_the_order_of_labs_nor_of_columns_matters(lists, how, random):
    labs = {f"lab-{i}": genes for i, genes in enumerate(lists)}
    try:
        vocabulary = agree(labs, how, None, 0)
    except DataError:  # nothing in common
        return
    shuffled = list(labs.items())
    random.shuffle(shuffled)
    shuffled = {lab: random.sample(genes, len(genes)) for lab, genes in shuffled}
    assert agree(shuffled, how, None, 0).tolist() == vocabulary.tolist()


@settings(deadline=None)
@given(gene_lists, st.sampled_from(["intersection", "union"]))
def test_what_is_agreed_on_is_found_again(lists, how):
    labs = {f"lab-{i}": genes for i, genes in enumerate(lists)}
    try:
        vocabulary = agree(labs, how, None, 0)
    except DataError:
        return
    for genes in lists:
        found = match(genes, vocabulary)
        places = found[found >= 0]
        assert len(set(places)) == len(places)
        for name, place in zip(genes, found, strict=True):
            assert place < 0 or vocabulary[place] == name
        if how == "intersection":
            assert len(places) == len(vocabulary)
        else:
            assert len(places) == len(genes)


def test_symbols_and_ids_are_not_mixed():
    labs = {"a": ["ACTB", "CD3D"], "b": ["ENSG00000000003", "ENSG00000000419"], "c": ["ACTB"]}
    with pytest.raises(
        DataError,
        match=r"b by stable ids \(ENSG00000000003\), a, c by symbols.*--symbols.*--set symbols="
        r"COLUMN.*labs.toml beside the files says it: \[b\] symbols = \"COLUMN\"",
    ):
        agree(labs, "union", None, 1)
    with pytest.raises(DataError, match=r"the reference by symbols.*\[b\]"):
        agree({"b": labs["b"]}, "reference", ["ACTB"], 1)
    with pytest.raises(DataError, match=r"the reference by stable ids.*\[a\]"):
        agree({"a": labs["a"]}, "reference", labs["b"], 1)


def test_positions_are_not_names():
    def g(n):
        return [f"g{i}" for i in range(n)]

    assert agree({"a": g(5), "b": g(5)[::-1]}, "intersection", None, 5).tolist() == g(5)
    for how in ("intersection", "union"):
        with pytest.raises(DataError, match=r"a, b name genes by position .*\(a: 5, b: 6 genes\)"):
            agree({"a": g(5), "b": g(6)}, how, None, 1)
    with pytest.raises(DataError, match="by position"):
        agree({"a": g(5), "b": ["ACTB", "CD3D"]}, "union", None, 0)
    with pytest.raises(DataError, match="by position"):
        agree({"a": [str(i) for i in range(5)], "b": [str(i) for i in range(4)]}, "union", None, 0)
    entrez = {"a": ["7157", "672", "60"], "b": ["672", "60"]}
    assert agree(entrez, "intersection", None, 2).tolist() == ["60", "672"]
    with pytest.raises(DataError, match=r"names 5 genes by position \(g0, …\) .* knows 4"):
        refuse_other_positions(g(5), g(4))
    refuse_other_positions(g(4)[::-1], g(4))
    refuse_other_positions(A, B)
    assert match(g(4)[::-1], g(3)).tolist() == [-1, 2, 1, 0]


def test_too_few_shared_genes_say_which_labs_and_what_to_do():
    labs = {"a": A, "b": B, "c": ["CD3D", "FOXP3"]}
    with pytest.raises(DataError) as raised:
        agree(labs, "intersection", None, 2)
    assert str(raised.value) == (
        "the labs share 1 genes, min-shared-genes = 2; measured were a: 4, b: 4, c: 2; "
        "leave out c (the others share 3)"
    )
    with pytest.raises(DataError, match=r"c shares 1 genes with other labs, min-shared-genes = 2"):
        agree(labs, "union", None, 2)
    with pytest.raises(DataError, match=r"too few genes of the reference in c \(0\)"):
        agree(labs, "reference", A[2:], 1)
    with pytest.raises(DataError, match="the labs share 0 genes"):
        agree({"a": ["ACTB"], "b": ["CD3D"]}, "intersection", None, 0)


@pytest.mark.parametrize(
    ("labs", "how", "advice"),
    [
        (
            {"a": "VWX", "b": "WXY", "c": "XVY"},
            "intersection",
            "leave out c (the others share 2) or",
        ),
        ({"a": "VWX", "b": "WXY", "c": "XVY"}, "intersection", " or set genes = 'union'"),
        ({"a": "VW", "b": "WX"}, "intersection", "; name the genes of all labs alike"),
        ({"a": "VW", "b": "WX"}, "union", "; name the genes of all labs alike"),
        ({"a": "VW", "b": "WX", "c": "XV"}, "intersection", "; set genes = 'union'"),
    ],
)
def test_no_advice_leads_to_the_next_refusal(labs, how, advice):
    with pytest.raises(DataError) as raised:
        agree({lab: list(names) for lab, names in labs.items()}, how, None, 2)
    assert advice in str(raised.value)


def test_a_lab_alone_needs_no_company():
    assert agree({"a": A}, "intersection", None, 100).tolist() == A
    assert agree({"a": A}, "union", None, 100).tolist() == A


def test_bad_lists():
    with pytest.raises(DataError, match="no lab"):
        agree({}, "intersection", None, 1)
    with pytest.raises(DataError, match="b has no genes"):
        agree({"a": A, "b": []}, "union", None, 1)
    with pytest.raises(DataError, match=r"b names 1 genes twice \(ACTB\)"):
        agree({"a": A, "b": ["ACTB", "ACTB"]}, "union", None, 1)
    with pytest.raises(DataError, match="reference has no genes"):
        agree({"a": A}, "reference", None, 1)


def test_reference_file(tmp_path):
    file = tmp_path / "genes.txt"
    file.write_text("# ours\nACTB\n\nCD3D  # T cells\nACTB\n")
    assert read_reference(file) == ("ACTB", "CD3D")
    file.write_text("\n# nothing\n")
    with pytest.raises(DataError, match="names no genes"):
        read_reference(file)
    with pytest.raises(DataError, match=r"absent\.txt' cannot be read"):
        read_reference(tmp_path / "absent.txt")


def test_long_messages_are_cut():
    labs = {f"lab-{i:02}": np.array([f"gene-{i}-x", "y"], dtype=object) for i in range(20)}
    with pytest.raises(DataError, match=r"… \(12 more\)"):
        agree(labs, "intersection", None, 5)


@pytest.mark.parametrize(
    "name", ["g{}", "G_{}", "gene{}", "feature {}", "x{}", "v.{}", "var-{}", "{}"]
)
def test_one_rule_tells_positions_from_names(name):
    """What a run refuses to join, the notes of a file say."""
    genes = np.array([name.format(i) for i in range(6)], dtype=object)
    assert is_positional(genes)
    found = notes(csr_matrix(np.ones((2, 6))), genes, pd.DataFrame(index=["a", "b"]), "")
    assert any("named by position" in note for note in found)
    with pytest.raises(DataError, match="by position"):
        agree({"a": genes, "b": genes[1:]}, "union", None, 1)


@pytest.mark.parametrize("genes", [["ACTB", "g1"], ["7157", "672"], ["CD3", "CD4"], []])
def test_genes_are_no_positions(genes):
    assert not is_positional(np.array(genes, dtype=object))


def test_folding_spells_names_alike_but_keeps_two_genes_of_one_list_apart():
    man, mouse = ["ACTB", "C1orf112", "WASH7P"], ["Actb", "C1ORF112", "Wash7p"]
    assert list(fold_case(man)) == list(fold_case(mouse)) == ["ACTB", "C1ORF112", "WASH7P"]
    fly = ["dl", "Dl", "wg", "wg"]
    assert list(fold_case(fly)) == ["dl", "Dl", "WG", "WG"]
