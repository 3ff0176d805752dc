"""``fedsc deploy …`` as a person types it; what it starts is in tests/deployment."""

import pytest

from deployment import local, registration
from deployment.layout import load
from fedsc.cli.deploy import _data
from fedsc.errors import ConfigError, RunError


@pytest.fixture
def federation(fedsc, tmp_path):
    root = tmp_path / "federation"
    code, _, err = fedsc(
        *("deploy", "init", "--labs", "A, B", "--output", root),
        *("--host", "fed.example.org", "--host", "10.0.0.7", "--port", "9443", "--name", "cells"),
    )
    assert (code, err) == (0, "")
    return root


def test_init_makes_what_was_asked_for_and_says_what_to_do(federation):
    made = load(federation)
    assert made.labs == ("A", "B")
    assert made.hosts == ("fed.example.org", "10.0.0.7")
    assert (made.name, made.address, made.control_port) == ("cells", "fed.example.org:9443", 8444)
    readme = (federation / "README.txt").read_text()
    for said in (
        "labs/A/",
        "labs/B/",
        "fed.example.org:9443",
        "valid for 365 days",
        "wait-for-labs=2",
    ):
        assert said in readme
    # Whoever follows it must be told to keep this where it belongs.
    assert "supernode.key" in (federation / "labs" / "A" / "README.txt").read_text()


def test_init_refuses_what_is_there_and_names_it_cannot_use(fedsc, federation, tmp_path):
    code, out, err = fedsc("deploy", "init", "--labs", "A", "--output", federation)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {federation} exists and is not empty")
    code, _, err = fedsc("deploy", "init", "--labs", "A,../B", "--output", tmp_path / "new")
    assert code == 2
    assert "'../B'" in err
    code, _, err = fedsc("deploy", "init", "--labs", " , ", "--output", tmp_path / "new")
    assert code == 2
    assert "labs" in err


def test_add_and_renew(fedsc, federation):
    before = (federation / "server" / "server.crt").read_bytes()
    code, out, _ = fedsc("deploy", "add", federation, "--labs", "C")
    assert code == 0
    assert f"new: {federation / 'labs' / 'C'}" in out
    assert load(federation).labs == ("A", "B", "C")
    assert (federation / "server" / "server.crt").read_bytes() == before
    assert fedsc("deploy", "renew", federation)[0] == 0
    assert (federation / "server" / "server.crt").read_bytes() != before


def test_check_tells_problems_by_its_exit_code(fedsc, federation, tiny_set, monkeypatch):
    monkeypatch.setattr("deployment.check.port_taken", lambda _: False)
    code, out, _ = fedsc("deploy", "check", federation, "--data", f"A={tiny_set}")
    assert code == 0
    notes = out.splitlines()
    assert notes[0].startswith("note: no server runs here (port 8444)")
    assert notes[1].startswith("note: lab B has no data here")
    assert notes[2:] == [f"{federation}: nothing is wrong with what is there"]
    (federation / "server" / "server.crt").unlink()
    code, out, _ = fedsc("deploy", "check", federation, "--data", f"A={tiny_set}", "--layer", "x")
    assert code == 2
    problems = [line for line in out.splitlines() if not line.startswith("note: ")]
    assert problems[0] == f"problem: {federation / 'server' / 'server.crt'} is missing"
    assert problems[1].startswith(f"problem: lab A: {tiny_set}: ")
    assert len(problems) == 2


def test_register_says_who_is_new(fedsc, federation, monkeypatch):
    monkeypatch.setattr(registration, "register", lambda _: ["A"])
    assert fedsc("deploy", "register", federation)[:2] == (0, "registered: A\n")
    monkeypatch.setattr(registration, "register", lambda _: [])
    assert fedsc("deploy", "register", federation)[1] == "every lab is registered already\n"

    def fail(_):
        raise RunError("flwr supernode failed: no server")

    monkeypatch.setattr(registration, "register", fail)
    assert fedsc("deploy", "register", federation)[::2] == (
        1,
        "error: flwr supernode failed: no server\n",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "lab A: "),
        (["A"], "LAB=FILE"),
        (["=x"], "LAB=FILE"),
        (["A="], "LAB=FILE"),
        (["A=none.h5ad"], "none.h5ad is not there"),
        (["C=none.h5ad"], "no such lab"),
        (["A=a", "A=b"], "given twice"),
    ],
)
def test_local_starts_nothing_without_data_for_every_lab(
    fedsc, federation, given, said, monkeypatch
):
    monkeypatch.setattr(local, "supervised", lambda _: pytest.fail("something was started"))
    code, _, err = fedsc("deploy", "local", federation, *(f"--data={each}" for each in given))
    assert code == 2
    assert said in err


def test_a_lab_s_file_may_have_any_name(tmp_path):
    assert _data([f"A={tmp_path}/a=b.h5ad"]) == {"A": tmp_path / "a=b.h5ad"}
    assert _data(None) == {}


def test_local_says_when_the_port_is_taken(federation, tiny_set, monkeypatch):
    monkeypatch.setattr(local, "port_taken", lambda _: True)
    with (
        pytest.raises(ConfigError, match="port 8444 is taken"),
        local.running(load(federation), {"A": tiny_set, "B": tiny_set}),
    ):
        pass
