from pathlib import Path

from typer.testing import CliRunner

from fedsc.cli import app
from fedsc.cli.options import described, markdown, toml
from fedsc.config import Config

ROOT = Path(__file__).parents[3]


def test_every_option_stands_once_with_its_default_and_what_is_allowed():
    listed = [option for group in described().values() for option in group]
    assert [option.name for option in listed] == list(Config.of().to_mapping())
    by_name = {option.name: option for option in listed}
    assert (by_name["rounds"].default, by_name["rounds"].unit) == ("300", "rounds")
    assert by_name["labs"].allowed == "integer ≥ 1, ≤ 1000"
    assert by_name["mask-rate"].allowed == "number ≥ 0, < 1"
    assert by_name["hvg"].allowed == '"seurat", "seurat_v3"'
    assert all(option.meaning and option.allowed for option in listed)


def test_the_page_of_the_documentation_is_what_the_command_prints():
    assert (ROOT / "docs" / "options.md").read_text() == markdown()


def test_the_defaults_flower_reads_are_what_the_command_prints():
    assert (ROOT / "pyproject.toml").read_text().endswith(toml())


def test_the_command_names_options_groups_and_how_to_set_one():
    printed = CliRunner().invoke(app, ["options"])
    assert printed.exit_code == 0
    for words in ("Training: ", "learning-rate", "0.032"):
        assert words in printed.stdout
    page = CliRunner().invoke(app, ["options", "--as", "markdown"])
    assert page.stdout == markdown()
