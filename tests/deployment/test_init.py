import os
import stat
import subprocess
import tomllib

import pytest

from deployment import init
from deployment.layout import load
from fedsc.errors import ConfigError


def test_what_was_made_is_read_again(federation):
    assert load(federation.root) == federation
    assert (federation.labs, federation.address) == (("A", "B"), "fed.example.org:8443")


def test_secrets_can_be_read_by_their_owner_only(tmp_path):
    before = os.umask(0)
    try:
        root = init.create(tmp_path / "federation", ["A"]).root
    finally:
        os.umask(before)
    secrets = [path for path in root.rglob("*") if path.suffix in (".key", ".secret")]
    assert {path.name for path in secrets} == {
        "ca.key",
        "server.key",
        "supernode.key",
        "runtime.key",
        "superexec.secret",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert not list(root.rglob("*.partial"))


def test_a_lab_s_folder_holds_its_own_secrets_and_nobody_else_s(federation):
    def secrets(folder):
        return {path.read_bytes() for path in folder.rglob("*") if path.suffix in _SECRETS}

    a, b, server = (
        secrets(f) for f in (federation.lab("A"), federation.lab("B"), federation.server)
    )
    assert (len(a), len(b), len(server)) == (3, 3, 2)
    assert not a & b
    assert not (a | b) & server
    everything = b"".join(p.read_bytes() for p in federation.lab("A").rglob("*") if p.is_file())
    assert (federation.ca / "ca.key").read_bytes() not in everything


_SECRETS = (".key", ".secret")


def test_nothing_of_it_gets_into_git(federation):
    def git(*arguments):
        command = ["git", "-C", str(federation.root.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init")
    git("add", "--all")
    assert git("ls-files") == ""


def test_flower_s_connection_goes_to_the_server_s_own_machine(federation):
    config = tomllib.loads((federation.flwr_home / "config.toml").read_text())["superlink"]
    assert config["default"] == "fedsc"
    assert config["fedsc"] == {
        "address": "127.0.0.1:8444",
        "root-certificates": str(federation.server / "ca.crt"),
    }


def test_nothing_is_overwritten(federation):
    key = (federation.ca / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="not empty"):
        init.create(federation.root, ["A"])
    assert (federation.ca / "ca.key").read_bytes() == key
    file = federation.root.parent / "file"
    file.touch()
    with pytest.raises(ConfigError, match="nothing was written"):
        init.create(file, ["A"])


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"labs": []}, "labs"),
        ({"labs": ["a/b"]}, "a/b"),
        ({"labs": ["../a"]}, r"\.\./a"),
        ({"labs": [".a"]}, "should be 1 to 63 letters"),
        ({"labs": ["a b"]}, "a b"),
        ({"labs": ["ä"]}, "ä"),
        ({"labs": ["x" * 64]}, "should be 1 to 63 letters"),
        ({"labs": ["A", "a"]}, "same name"),
        ({"labs": ["A"], "hosts": ["two words"]}, "host name"),
        ({"labs": ["A"], "hosts": []}, "hosts"),
        ({"labs": ["A"], "port": 0}, "port"),
        ({"labs": ["A"], "control_port": 65536}, "control_port"),
        ({"labs": ["A"], "port": 8444}, "the same port"),
        ({"labs": ["A"], "name": "a/b"}, "name"),
        ({"labs": ["A"], "name": "default"}, "name"),
    ],
)
def test_wrong_facts_are_refused_before_anything_is_written(tmp_path, facts, said):
    with pytest.raises(ConfigError, match=said):
        init.create(tmp_path / "new", **facts)
    assert not (tmp_path / "new").exists()


def test_a_lab_is_added_and_the_others_stay(federation):
    def contents():
        return {path: path.read_bytes() for path in federation.root.rglob("*") if path.is_file()}

    edited = federation.lab("A") / ".env"
    edited.write_text("FEDSC_FILE=mine.h5ad\n")
    with (federation.server / "docker-compose.yml").open("a") as file:
        file.write("# ours\n")
    before = contents()
    grown = init.add(federation, ["C"])
    assert load(federation.root) == grown
    assert grown.labs == ("A", "B", "C")
    after = contents()
    changed = {path.relative_to(federation.root) for path in before if after[path] != before[path]}
    assert {str(path) for path in changed} == {
        "deployment.toml",
        "docker-compose.yml",
        "README.txt",
        "server/docker-compose.yml",
    }
    assert "# ours" in (federation.server / "docker-compose.yml.bak").read_text()
    assert not (federation.server / "gate.conf.bak").exists()  # as it was
    assert (grown.lab("C") / "supernode.key").exists()
    with pytest.raises(ConfigError, match="same name"):
        init.add(grown, ["b"])


def test_renewing_changes_the_server_s_certificate_alone(federation):
    before = {p: p.read_bytes() for p in federation.root.rglob("*") if p.is_file()}
    init.renew(federation)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"server.crt", "server.key"}


def test_without_the_authority_s_key_it_says_where_to_go(federation):
    (federation.ca / "ca.key").unlink()
    with pytest.raises(ConfigError, match="where the deployment was made"):
        init.renew(federation)
    with pytest.raises(ConfigError, match="where the deployment was made"):
        init.add(federation, ["C"])
    assert not federation.lab("C").exists()


def test_a_folder_that_is_no_deployment_or_damaged_is_told(federation, tmp_path):
    with pytest.raises(ConfigError, match="fedsc deploy init"):
        load(tmp_path)
    facts = federation.root / "deployment.toml"
    facts.write_text("labs = [")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(federation.root)
    facts.write_text('labs = ["A"]\nsurprise = 1\n')
    with pytest.raises(ConfigError, match="surprise"):
        load(federation.root)
