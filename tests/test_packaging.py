"""What is installed and shipped: versions, hashes, licences, data."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def versions(name):
    """Read exact versions and their hashes from a file of requirements."""
    text = re.sub(r"\s*#.*", "", (ROOT / name).read_text()).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.strip():
            words, *hashes = line.split(" --hash=")
            requirement = Requirement(words)
            (exact,) = requirement.specifier
            assert exact.operator == "=="
            found[requirement.name] = exact.version, len(hashes)
    return found


CONSTRAINTS = versions("constraints.txt")
LOCK = versions("requirements.lock")
EXTRAS = PROJECT["project"]["optional-dependencies"]
NEEDED = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
WANTED = [Requirement(text) for extra in EXTRAS.values() for text in extra]


@pytest.mark.parametrize("requirement", NEEDED + WANTED, ids=str)
def test_exact_versions_are_within_the_ranges(requirement):
    assert requirement.name == "fedsc" or CONSTRAINTS[requirement.name][0] in requirement.specifier


def test_only_flower_has_an_upper_bound():
    capped = [
        requirement.name
        for requirement in NEEDED
        if any(part.operator != ">=" for part in requirement.specifier)
    ]
    assert capped == ["flwr"]


def test_what_the_image_installs_has_hashes_and_no_copyleft():
    assert all(hashes for _, hashes in LOCK.values())
    assert {name: version for name, (version, _) in LOCK.items()}.items() <= {
        name: version for name, (version, _) in CONSTRAINTS.items()
    }.items()
    assert {requirement.name for requirement in NEEDED} - set(LOCK) == {"torch"}
    assert not {"igraph", "leidenalg", "pytest"} & set(LOCK)  # docs/licences.md


def test_all_that_is_shipped_enters_the_image():
    let_in = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    wanted = ["pyproject.toml", "README.md", "requirements.lock", *SHIPPED]
    wanted += PROJECT["project"]["license-files"]
    assert [name for name in wanted if f"!{name}" not in let_in] == []


def test_every_package_of_the_checkout_is_shipped():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(SHIPPED)


def test_the_notice_names_the_data_and_their_licences():
    notice = (ROOT / "NOTICE").read_text()
    data = [path.relative_to(ROOT) for path in ROOT.glob("*/**/*.h5ad")]
    assert [str(path) for path in data if not path.parts[0].startswith(".")] == [
        "fedsc/data/10x_pbmc.h5ad"
    ]
    for words in ("fedsc/data/10x_pbmc.h5ad", "CC BY 4.0", "10x Genomics", "Apache License"):
        assert words in notice
