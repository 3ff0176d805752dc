"""Suites: what their files may say, and which cells they mean."""

import tomllib

import pytest

from fedsc.config import Config
from fedsc.data.catalogue import DATASETS
from fedsc.errors import ConfigError
from simulations.bench.suite import Place, load, of_lines, plan, suites

SUITE = """
title = "T"
about = "A"
reference = "a"
controls = ["a"]
seeds = 2
federated = { labs = 2, rounds = 1 }
datasets = [{ name = "x", federated = { subtypes-per-lab = 2 } }, { name = "y" }]
lines = [{ name = "a", method = "fedsc" }, { name = "b", method = "pca", options = { k = "true" } }]
"""

FEDERATED = SUITE.replace('"pca", options = { k = "true" }', '"fedpca"')


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", suites())
def test_every_suite_that_comes_along_can_be_planned(name):
    planned = plan(load(name))
    assert planned
    assert len({(place, cell.seed) for place, cell in planned}) == len(
        {(place, cell.key) for place, cell in planned}
    )


PAPERS = {
    "FedSC, Table 1": "fedsc-table1",
    "FedSC, Table 2": "fedsc-table2",
    "FedSC, Table 3": "fedsc-table3",
    "FedSC, Table 4": "fedsc-table4",
    "FedSC, Fig. 3": "fedsc-fig3",
    "mask-sc, Table 1": "masksc-table1",
    "mask-sc, Table 2": "masksc-table2",
    "mask-sc, Table 3": "masksc-table3",
    "mask-sc, Table 4": "masksc-table4",
    "mask-sc, Fig. 3": "masksc-table1",  # its maps
    "mask-sc, Fig. 4": "masksc-fig4",
    "mask-sc, Fig. 5": "masksc-table1",  # its attention
}
"""Every table and figure of results that the papers have, and the suite that makes it."""

BEYOND = {"analysis", "honest", "pulls", "readings"}
FIFTEEN = set(DATASETS) - {"pbmc68k_reduced"}


def test_every_table_and_figure_of_the_papers_has_its_suite_and_the_other_way_round():
    assert set(suites()) == set(PAPERS.values()) | BEYOND
    for what, name in PAPERS.items():
        if what not in ("mask-sc, Fig. 3", "mask-sc, Fig. 5"):
            assert load(name).title.startswith(f"{what}:")
    assert {"maps", "attention"} <= set(load("masksc-table1").figures)


def test_the_tables_of_fifteen_sets_have_all_of_them():
    assert len(FIFTEEN) == 15
    for name in ("fedsc-table4", "masksc-table3", "masksc-table4"):
        assert {data.name for data in load(name).datasets} == FIFTEEN


def test_figures_that_sweep_go_through_the_papers_values():
    def values(suite, option):
        return {cell.options.get(option) for _, cell in plan(load(suite))} - {None}

    assert values("fedsc-fig3", "rounds") == {100, 200, 300, 400, 500}
    default = Config().training.local_epochs
    assert {default} | values("fedsc-fig3", "local-epochs") == {5, 10, 25, 50, 100}
    assert {line.method for line in load("fedsc-fig3").lines} == {"fedbyol", "fedsc"}
    assert values("masksc-fig4", "side") == {36, 64, 80, 100}
    assert values("masksc-fig4", "mask-ratio") == {0.1, 0.25, 0.5, 0.75, 0.9}
    assert values("fedsc-table3", "subtypes-per-lab") == {1, 2, 4, 8}
    assert values("fedsc-table3", "cover") == {"drop", "all"}


def test_lines_are_chosen_by_name(write):
    planned = plan(load(write(SUITE)))
    assert of_lines(planned, []) == planned
    assert {place.line for place, _ in of_lines(planned, ["b"])} == {"b"}
    with pytest.raises(ConfigError, match="'c' is no line of the suite: a; b"):
        of_lines(planned, ["a", "c"])


def test_the_published_figures_belong_to_lines_that_are_run():
    for name in suites():
        suite = load(name)
        places = {(place.line, place.dataset): [] for place, _ in plan(suite)}
        for place, _ in plan(suite):
            places[place.line, place.dataset].append(dict(place.at))
        for row in suite.published:
            assert any(row.at.items() <= at.items() for at in places[row.line, row.dataset])


def test_a_plan_is_the_product_of_lines_sets_and_seeds_with_controls(write):
    planned = plan(load(write(SUITE)))
    expected = {
        (Place(data, line, control=control), seed)
        for data in ("x", "y")
        for seed in (0, 1)
        for line, control in (("a", False), ("a", True), ("b", False))
    }
    assert {(place, cell.seed) for place, cell in planned} == expected
    assert len(planned) == len(expected)


def test_all_of_a_seed_comes_before_the_next(write):
    seeds = [cell.seed for _, cell in plan(load(write(SUITE)))]
    assert seeds == sorted(seeds)


def test_options_come_from_suite_set_and_line_and_centralised_lines_get_their_own_alone(write):
    cells = {(p.line, p.dataset, p.control): c for p, c in plan(load(write(SUITE)))}
    assert cells["a", "x", False].options == {"labs": 2, "rounds": 1, "subtypes-per-lab": 2}
    assert cells["a", "y", False].options == {"labs": 2, "rounds": 1}
    assert cells["b", "x", False].options == {"k": "true"}
    assert not cells["a", "x", False].centralised
    assert cells["b", "x", False].centralised


def test_a_control_is_the_same_run_on_an_iid_split(write):
    cells = {(p.line, p.dataset, p.control): c for p, c in plan(load(write(SUITE)))}
    control = cells["a", "x", True]
    assert control.options == {"labs": 2, "rounds": 1, "partition": "iid"}
    assert (control.method, control.dataset) == ("fedsc", "x")


def test_a_split_by_a_real_column_has_no_control(write):
    column = SUITE.replace(
        '{ name = "y" }',
        '{ name = "y", federated = { partition = "column", partition-key = "d" } }',
    )
    planned = plan(load(write(column)))
    assert {place.dataset for place, _ in planned if place.control} == {"x"}


def test_labs_made_from_labels_need_a_control(write):
    with pytest.raises(ConfigError, match="IID"):
        load(write(SUITE.replace('controls = ["a"]', "")))


def test_grids_are_the_union_of_their_products_and_points_are_not_doubled(write):
    text = FEDERATED + "[[grid]]\nrounds = [1, 2]\n[[grid]]\nrounds = [1]\nlocal-epochs = [5, 6]\n"
    places = {p.at for p, _ in plan(load(write(text))) if not p.control}
    assert places == {
        (("rounds", 1),),
        (("rounds", 2),),
        (("local-epochs", 5), ("rounds", 1)),
        (("local-epochs", 6), ("rounds", 1)),
    }


def test_controls_do_not_vary_with_options_of_the_split(write):
    text = FEDERATED + "[[grid]]\nsubtypes-per-lab = [1, 2]\nrounds = [1, 2]\n"
    controls = [(p, c) for p, c in plan(load(write(text))) if p.control and p.dataset == "x"]
    assert {p.at for p, _ in controls} == {(("rounds", 1),), (("rounds", 2),)}
    assert len({c.key for _, c in controls}) == 2 * 2  # rounds × seeds


def test_narrowing_chooses_sets_and_seeds_and_changes_federated_lines_alone(write):
    suite = load(write(SUITE)).narrowed(["y"], 1, {"rounds": 9})
    cells = [cell for _, cell in plan(suite)]
    assert {(cell.dataset, cell.seed) for cell in cells} == {("y", 0)}
    assert {cell.options.get("rounds") for cell in cells if not cell.centralised} == {9}
    assert all("rounds" not in cell.options for cell in cells if cell.centralised)


def test_a_set_the_suite_does_not_list_is_added_as_a_known_one(write):
    suite = load(write(SUITE)).narrowed(["pbmc68k_reduced"], None, {})
    assert [data.name for data in suite.datasets] == ["pbmc68k_reduced"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "not TOML"),
        ("title = 'x'", "reference: Field required"),
        (SUITE + "colour = 'red'", "toml: unknown key 'colour'; known are title, about, reference"),
        (
            SUITE.replace('method = "pca"', 'metod = "pca"'),
            r"lines, entry 2 \('b'\): method: Field required; lines, entry 2 \('b'\): "
            "unknown key 'metod'; known are name, method, options, clusters, harmony, reading_of$",
        ),
        (
            SUITE.replace('{ name = "y" }', '{ name = "y", label-key = "z" }'),
            r"datasets, entry 2 \('y'\): unknown key 'label-key'; known are name, label_key, ",
        ),
        (
            SUITE.replace('"pca"', '"pcaa"'),
            r"lines, entry 2 \('b'\): method = 'pcaa': should be one of fedsc, .*pca, leiden",
        ),
        (
            SUITE.replace('k = "true"', "k = [1, 2]"),
            r"lines, entry 2 \('b'\): options.k = \[1, 2\]: should be a number, a text, true or",
        ),
        (SUITE + "[[grid]]\nrounds = 3", "grid, entry 1: rounds = 3: should be a list"),
        (SUITE.replace("lines = [", "lines = [3, "), "lines, entry 1: should be a table"),
        (SUITE.replace('reference = "a"', 'reference = "c"'), "'c' is not the name of a line"),
        (SUITE.replace('name = "a",', 'name = "a", reading_of = "z",'), "'z' is not the name of a"),
        (SUITE.replace('name = "b"', 'name = "a"'), "two lines"),
        (SUITE.replace("seeds = 2", "seeds = 0"), "seeds"),
    ],
)
def test_a_bad_file_is_refused_in_words(write, text, said):
    with pytest.raises(ConfigError, match=said):
        load(write(text))


PCA = 'method = "pca", options = { k = "true" }'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("rounds = 1", "roundz = 1", "line 'a' on x: unknown option 'roundz': did you mean"),
        ("rounds = 1", "rounds = 0", "line 'a' on x: option rounds = 0: "),
        ("rounds = 1", "seed = 3", "line 'a' on x: option seed = 3: leave it out"),
        ("subtypes-per-lab = 2", "cover = 'some'", "line 'a' on x: option cover = 'some': "),
        ('k = "true"', 'k = "many"', "line 'b' on x: k = 'many': should be a number of clusters"),
        ('k = "true"', "component = 3", "line 'b' on x: unknown option 'component': did you"),
        ('k = "true"', 'preset = "new"', "line 'b' on x: unknown preset 'new'; known are"),
        ('k = "true"', 'resolution = "high"', "line 'b' on x: option resolution = 'high': "),
        ('k = "true"', "resolution = -1", "line 'b' on x: option resolution = -1: "),
        (PCA, 'method = "leiden", options = { k = 3 }', "line 'b' on x: leiden finds .* k = 3 "),
        (PCA, 'method = "mask-sc", options = { side = 10 }', "line 'b' on x: option side = 10: "),
        (PCA, 'method = "mask-sc", options = { teacher = "he" }', "line 'b' on x: .* preset 'he'"),
        (PCA, 'method = "nothing:HERE"', "line 'b' on x: option method = 'nothing:HERE': "),
        (PCA, 'method = "json:dumps"', "line 'b' on x: option method = 'json:dumps': should be"),
        (
            PCA,
            'method = "fedpca", options = { integrate = "harmony" }',
            "line 'b' on x: integrate = 'harmony' on a split of partition = 'subtypes'",
        ),
    ],
)
def test_what_no_run_could_begin_with_is_found_before_any_does(write, before, after, said):
    assert before in SUITE
    with pytest.raises(ConfigError, match=said):
        plan(load(write(SUITE.replace(before, after))))


def test_an_option_of_the_grid_is_one_of_every_line(write):
    with pytest.raises(ConfigError, match="line 'b' on x: unknown option 'rounds'"):
        plan(load(write(SUITE + "[[grid]]\nrounds = [1, 2]\n")))


def test_all_lines_with_a_bad_option_are_named_once(write):
    text = SUITE.replace("rounds = 1", "roundz = 1").replace('k = "true"', "ks = 3")
    with pytest.raises(ConfigError) as error:
        plan(load(write(text)))
    assert [str(error.value).count(f"line '{name}'") for name in "ab"] == [1, 1]


def test_an_unknown_suite_is_told_which_there_are():
    with pytest.raises(ConfigError, match="fedsc-table1"):
        load("fedsc-table9")


def test_files_of_suites_are_plain_toml():
    for path in suites().values():
        assert tomllib.loads(path.read_text())["lines"]


def test_batches_are_the_labs_and_harmony_is_for_sets_that_have_some(write):
    text = """
title = "T"
about = "A"
reference = "a"
controls = ["a"]
seeds = 1
datasets = [{ name = "x", batches = "donor" }, { name = "y", federated = { subtypes-per-lab = 2 } }]
lines = [
  { name = "a", method = "fedpca", clusters = "graph" },
  { name = "a, together", method = "fedpca", clusters = "graph", harmony = true },
  { name = "b, together", method = "leiden", harmony = true },
]
"""
    column = {"partition": "column", "partition-key": "donor"}
    assert {
        (place.line, place.dataset, place.control): cell.options
        for place, cell in plan(load(write(text)))
    } == {
        ("a", "x", False): column,
        ("a", "y", False): {"subtypes-per-lab": 2},
        ("a", "y", True): {"partition": "iid"},
        ("a, together", "x", False): column | {"integrate": "harmony"},
        ("b, together", "x", False): {"batch-key": "donor"},
    }
