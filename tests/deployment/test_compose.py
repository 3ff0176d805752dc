import difflib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from flwr.common.config import parse_config_args

from deployment import compose, init
from deployment.layout import checked

_CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def services(federation):
    return yaml.safe_load((federation.root / "docker-compose.yml").read_text())["services"]


def test_the_example_in_the_repository_is_what_init_writes():
    example = compose.rehearsal(checked(Path("anywhere"), labs=["A", "B"]))
    assert (_CHECKOUT / "docker-compose.yml").read_text() == example


def test_every_mounted_file_was_made(federation):
    for file, where in [
        ("docker-compose.yml", federation.root),
        ("server/docker-compose.yml", federation.server),
        ("labs/A/docker-compose.yml", federation.lab("A")),
    ]:
        services = yaml.safe_load((federation.root / file).read_text())["services"]
        mounts = [mount for service in services.values() for mount in service["volumes"]]
        assert mounts
        for mount in mounts:
            source = mount.replace("${FEDSC_DATA:-./data}", "./data").split(":")[0]
            assert (where / source).exists(), mount


def test_only_state_and_runs_can_be_written(services):
    writable = [
        mount.split(":")[1]
        for service in services.values()
        for mount in service["volumes"]
        if not mount.endswith(":ro")
    ]
    assert sorted(writable) == ["/lab/state", "/lab/state", "/server/runs", "/server/state"]
    assert all(service["read_only"] for service in services.values())


def test_each_process_has_the_files_it_needs_and_no_others(services):
    inside = {
        name: {mount.split(":")[1] for mount in service["volumes"]}
        for name, service in services.items()
    }
    assert "/lab/data" not in inside["supernode-A"]
    assert "/lab/supernode.key" in inside["supernode-A"]
    assert inside["clientapp-A"] == {
        "/lab/ca.crt",
        "/lab/supernode.key",
        "/lab/superexec.secret",
        "/lab/data",
        "/lab/state",
    }
    assert inside["serverapp"] == {
        "/server/ca.crt",
        "/server/superexec.secret",
        "/server/register",
        "/server/runs",
    }


def test_the_app_of_the_server_finds_the_register_and_a_lab_s_app_its_key(services):
    folder = services["serverapp"]["environment"]["FEDSC_REGISTER"]
    assert f"./server/register:{folder}:ro" in services["serverapp"]["volumes"]
    command = services["supernode-A"]["command"]
    config = parse_config_args([command[command.index("--node-config") + 1]])
    assert f"./labs/A/supernode.key:{config['key']}:ro" in services["clientapp-A"]["volumes"]


def test_what_runs_on_the_data_reaches_its_supernode_alone(federation, services):
    networks = yaml.safe_load(compose.rehearsal(federation))["networks"]
    assert list(services["clientapp-A"]["networks"]) == ["lab-A"]
    assert networks["lab-A"] == {"internal": True}
    assert [n for n, s in services.items() if "lab-A" in s["networks"]] == [
        "supernode-A",
        "clientapp-A",
    ]


def test_every_service_is_limited_in_memory_processes_and_tmp(services):
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["pids_limit"] <= 1024, name
        assert all("size=" in mount for mount in service["tmpfs"]), name


def test_only_the_gate_is_open_to_the_outside(services):
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"gate": ["8443:8443"], "superlink": ["127.0.0.1:8444:8444"]}


def test_every_service_restarts_is_nobody_and_tells_its_health(services):
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["user"] == "${FEDSC_USER:-1000:1000}", name
        assert service["cap_drop"] == ["ALL"], name
        assert "healthcheck" in service or "FEDSC_HEALTH" in service["environment"], name
    environment = services["clientapp-A"]["environment"]
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.1"
    assert "FLWR_SUPEREXEC_TASK_POLL_INTERVAL" not in services["serverapp"]["environment"]


def test_nothing_asks_for_an_unencrypted_connection_or_holds_a_secret(federation):
    text = compose.rehearsal(federation)
    assert "--insecure" not in text
    assert "--enable-supernode-auth" in text
    for secret in federation.root.rglob("*.secret"):
        assert secret.read_text() not in text


def test_a_lab_calls_the_server_by_its_outside_name(federation):
    services = yaml.safe_load(compose.lab_only(federation, "B"))["services"]
    assert set(services) == {"supernode-B", "clientapp-B"}
    command = services["supernode-B"]["command"]
    assert command[command.index("--superlink") + 1] == "fed.example.org:8443"


def test_adding_a_lab_adds_a_block_and_changes_no_other(federation):
    before = compose.rehearsal(federation).splitlines()
    init.add(federation, ["C"])
    after = (federation.root / "docker-compose.yml").read_text().splitlines()
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert [line for line in changes if line[0] == "-"] == [f"- {before[0]}"]
    assert "+   supernode-C:" in changes


def test_awkward_names_of_labs_and_deployments_stay_names(tmp_path):
    root = init.create(tmp_path / "f", ["no", "1e3", "null", "a.b-c_d"], name="My.Fed").root
    whole = yaml.safe_load((root / "docker-compose.yml").read_text())
    assert "COMPOSE_PROJECT_NAME=fedsc-my-fed\n" in (root / ".env").read_text()
    assert (
        "COMPOSE_PROJECT_NAME=fedsc-my-fed-a-b-c_d\n"
        in (root / "labs" / "a.b-c_d" / ".env").read_text()
    )
    assert {"supernode-no", "supernode-1e3", "supernode-null", "clientapp-a.b-c_d"} <= set(
        whole["services"]
    )
    assert 'lab="1e3" ' in " ".join(whole["services"]["supernode-1e3"]["command"])


def test_the_image_is_built_from_pinned_parts_and_runs_as_nobody():
    lines = (_CHECKOUT / "docker" / "Dockerfile").read_text().splitlines()
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if "ARG " in line)
    assert {"PYTHON_IMAGE", "TORCH_REQUIREMENT", "TORCH_INDEX"} == set(arguments)
    assert arguments["TORCH_REQUIREMENT"] in (_CHECKOUT / "constraints.txt").read_text().split()
    assert any("--require-hashes -r /requirements.lock" in line for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    ignored = (_CHECKOUT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored


def test_the_server_is_built_from_this_clone_and_a_lab_says_which_is_its_own(federation):
    user = "{}:{}".format(*compose._user())
    for folder in (federation.root, federation.server):
        told = (folder / ".env").read_text().splitlines()
        assert {f"FEDSC_SOURCE={_CHECKOUT}", f"FEDSC_USER={user}"} <= set(told)
    lab = federation.lab("A")
    assert {"FEDSC_SOURCE=", "FEDSC_USER="} <= set((lab / ".env").read_text().splitlines())
    service = yaml.safe_load((lab / "docker-compose.yml").read_text())["x-service"]
    assert service["build"]["context"] == "${FEDSC_SOURCE:?set FEDSC_SOURCE in .env}"
    assert service["user"] == "${FEDSC_USER:?set FEDSC_USER in .env}"
    steps = (lab / "README.txt").read_text()
    assert "FEDSC_SOURCE" in steps
    assert "FEDSC_USER" in steps


@pytest.mark.slow
def test_docker_accepts_the_files(federation):
    def compose_cli(*arguments, **options):
        return subprocess.run(
            [*command, *arguments, "config"], capture_output=True, text=True, check=False, **options
        )

    plugin = (
        shutil.which("docker")
        and not subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False
        ).returncode
    )
    command = ["docker", "compose"] if plugin else [shutil.which("docker-compose")]
    if command == [None]:
        pytest.skip("neither docker compose nor docker-compose is installed")
    lab = federation.lab("A")
    done = compose_cli(cwd=lab)
    assert done.returncode != 0
    assert "set FEDSC_" in done.stderr
    own = (lab / ".env").read_text().replace("SOURCE=", f"SOURCE={_CHECKOUT}")
    (lab / ".env").write_text(own.replace("USER=", "USER=7:8"))
    for folder in (federation.root, federation.server, lab):
        done = compose_cli(cwd=folder)
        assert done.returncode == 0, done.stderr
        written = yaml.safe_load((folder / "docker-compose.yml").read_text())
        assert yaml.safe_load(done.stdout)["services"].keys() == written["services"].keys()
    done = compose_cli("-f", str(_CHECKOUT / "docker-compose.yml"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("root", [True, False])
def test_what_root_makes_belongs_to_the_containers_user(root, monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(os, "getuid", lambda: 0 if root else 4321)
    monkeypatch.setattr(os, "chown", lambda path, *ids, **_: given.update({Path(path): ids}))
    federation = init.create(tmp_path / "f", ["A"])
    user = "1000:1000" if root else f"4321:{os.getgid()}"
    assert f"FEDSC_USER={user}\n" in (federation.root / ".env").read_text()
    if not root:
        assert not given
        return
    assert set(given.values()) == {(1000, 1000)}
    for mounted in ("server.key", "superexec.secret", "state", "runs"):
        assert federation.server / mounted in given
    for mounted in ("supernode.key", "superexec.secret", "state", "data"):
        assert federation.lab("A") / mounted in given
    assert not [path for path in given if federation.ca in (path, *path.parents)]

    given.clear()
    init.add(federation, ["B"])
    assert federation.lab("B") / "supernode.key" in given
    assert federation.lab("A") not in given
    given.clear()
    init.renew(federation)
    assert set(given) == {federation.server / "server.crt", federation.server / "server.key"}
