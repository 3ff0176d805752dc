"""Every command line we write, held against what the installed Flower says it takes."""

import re
import subprocess
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import yaml

from deployment import commands, compose, flower, local
from fedsc.errors import ConfigError


@cache
def _options(program: str) -> dict[str, str]:
    """Give a program's options and what its help says of each."""
    said = subprocess.run(
        [*program.split(), "--help"],
        env=flower.environment() | {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts = re.split(r"^[ │]+(?=-)", said, flags=re.MULTILINE)[1:]
    return {flag: part for part in parts for flag in re.findall(r"--[\w-]+", part.split("  ")[0])}


def _check(command: list[str]) -> None:
    program, *arguments = command
    options = _options(program)
    assert len(options) > 5, f"the help of {program} could not be read"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if not argument.startswith("--"):
            continue
        assert argument in options, f"{program} knows no {argument}"
        assert "deprecated" not in options[argument].lower(), f"{argument} of {program}"
        choices = re.search(argument + r" \{([^}]*)\}", options[argument])
        if choices:
            assert following in choices[1].split(",")


def _composed(text: str) -> list[list[str]]:
    services = yaml.safe_load(text)["services"]
    return [s["command"] for name, s in services.items() if name != "gate"]


@pytest.mark.slow
def test_flower_takes_every_command_line_in_the_compose_files(federation):
    texts = [
        compose.rehearsal(federation),
        compose.server_only(federation),
        compose.lab_only(federation, "A"),
    ]
    found = [command for text in texts for command in _composed(text)]
    assert [command[0] for command in found[:4]] == [
        "flower-superlink",
        "flower-superexec",
        "fedsc-supernode",
        "fedsc-executor",
    ]
    for command in found:
        _check(command)


@pytest.mark.slow
def test_flower_takes_every_command_line_of_a_local_deployment(federation):
    programs = local.server_programs(federation)
    programs += local.lab_programs(federation, "A", Path("cells.h5ad"))
    assert [program.name for program in programs] == [
        "superlink",
        "serverapp",
        "supernode-A",
        "clientapp-A",
    ]
    for program in programs:
        _check(program.command)
        assert program.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert program.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert "environment" not in repr(program)


@pytest.mark.filterwarnings("ignore:.*is_flag:DeprecationWarning")  # Flower on typer 0.20
@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("run", {"--run-config", "--format"}),
        ("ls", {"--run-id", "--format"}),
        ("log", {"--show"}),
        ("stop", {"--format"}),
        ("supernode register", {"--name", "--format"}),
        ("supernode list", {"--format"}),
    ],
)
def test_flower_s_command_line_has_the_options_we_use(words, options):
    import typer.main
    from flwr.cli.app import app

    command = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    flags = {
        flag
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    assert options <= flags


def test_a_flag_that_is_gone_is_noticed():
    with pytest.raises(AssertionError, match="--gone"):
        _check(["flower-superlink", "--gone", "x"])
    with pytest.raises(AssertionError, match="--fleet-api-address"):
        _check(["flower-superlink", "--fleet-api-address", "x"])
    with pytest.raises(AssertionError):
        _check(["flower-superlink", "--isolation", "nothing"])


def test_flower_reads_the_node_config_as_it_was_meant():
    from flwr.common.config import parse_config_args

    text = commands.node_config(lab="A", data=PurePosixPath("/my data/a=b.h5ad"), state="/s")
    assert parse_config_args([text]) == {"lab": "A", "data": "/my data/a=b.h5ad", "state": "/s"}


@pytest.mark.parametrize("path", ['/a"b', "/a'b", "/a\\b", "/a\nb"])
def test_a_path_flower_could_not_read_back_is_refused(path):
    with pytest.raises(ConfigError, match="data"):
        commands.node_config(lab="A", data=path)


def test_the_gate_lets_labs_pass_and_nothing_else(federation):
    from flwr.superlink.routers.control import router as control
    from flwr.superlink.routers.fleet.router import router as fleet

    rules = re.findall(r"location (\S+) \{", compose.gate(federation))
    assert rules == ["/v1/fleet/", "/"]
    assert {route.path.startswith("/v1/fleet/") for route in fleet.routes} == {True}
    assert not any(route.path.startswith("/v1/fleet/") for route in control.routes)
