import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsc.data.genes import agree, match, read_reference, refuse_other_positions
from fedsc.errors import DataError

A = ["ACTB", "CD3D", "GNLY", "NKG7"]
B = ["NKG7", "MS4A1", "CD3D", "ACTB"]


def test_intersection_union_reference():
    labs = {"a": A, "b": B}
    assert agree(labs, "intersection", None, 3).tolist() == ["ACTB", "CD3D", "NKG7"]
    assert agree(labs, "union", None, 3).tolist() == ["ACTB", "CD3D", "GNLY", "MS4A1", "NKG7"]
    reference = ["GNLY", "NKG7", "ACTB", "FOXP3"]
    assert agree(labs, "reference", reference, 2).tolist() == ["ACTB", "GNLY", "NKG7"]


def test_case_and_ensembl_versions_do_not_matter():
    labs = {"a": ["Actb", "CD3D"], "b": ["ACTB", "cd3d"], "c": ["ACTB", "CD3D"]}
    assert agree(labs, "intersection", None, 2).tolist() == ["ACTB", "CD3D"]  # the commonest
    assert agree(labs, "reference", ["actB", "Cd3d"], 2).tolist() == ["Cd3d", "actB"]
    ids = {
        "a": ["ENSG00000000003.15", "ENSG00000000419"],
        "b": ["ENSG00000000003", "ENSG00000000419.2"],
    }
    assert agree(ids, "intersection", None, 2).tolist() == ["ENSG00000000003", "ENSG00000000419"]


def test_versions_are_only_cut_from_ensembl_ids():
    labs = {"a": ["AL627309.1", "ACTB"], "b": ["AL627309.2", "ACTB"]}
    assert agree(labs, "intersection", None, 1).tolist() == ["ACTB"]
    par = ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y"]
    assert agree({"a": par, "b": par[::-1]}, "intersection", None, 2).tolist() == par


def test_names_that_collide_in_one_lab_match_exactly_everywhere():
    labs = {"a": ["dl", "Dl", "w"], "b": ["Dl", "W"], "c": ["DL", "w"]}
    assert agree(labs, "intersection", None, 1).tolist() == ["w"]
    assert agree(labs, "union", None, 1).tolist() == ["DL", "Dl", "dl", "w"]
    assert match(["DL", "dl", "W"], ["DL", "Dl", "dl", "w"]).tolist() == [0, 2, 3]
    assert match(["dL", "W"], ["DL", "Dl", "dl", "w"]).tolist() == [-1, 3]  # which one?
    assert match(["DL", "dL", "w"], ["dl", "w"]).tolist() == [-1, -1, 1]


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
            assert place < 0 or vocabulary[place].lower() == name.lower()
        if how == "intersection":
            assert len(places) == len(vocabulary)
        else:
            assert len(places) == len(genes)


def test_symbols_and_ids_are_not_mixed():
    labs = {"a": ["ACTB", "CD3D"], "b": ["ENSG00000000003", "ENSG00000000419"], "c": ["ACTB"]}
    with pytest.raises(DataError, match=r"b by stable ids \(ENSG00000000003\), a, c by symbols"):
        agree(labs, "union", None, 1)
    with pytest.raises(DataError, match="the reference by symbols"):
        agree({"b": labs["b"]}, "reference", ["ACTB"], 1)


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
        "leave out c (the others share 3) or set genes = 'union'"
    )
    with pytest.raises(DataError, match=r"c shares 1 genes with other labs, min-shared-genes = 2"):
        agree(labs, "union", None, 2)
    with pytest.raises(DataError, match=r"too few genes of the reference in c \(0\)"):
        agree(labs, "reference", A[2:], 1)
    with pytest.raises(DataError, match="the labs share 0 genes"):
        agree({"a": ["ACTB"], "b": ["CD3D"]}, "intersection", None, 0)


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
