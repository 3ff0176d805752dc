import os
import re
import shutil
import socket
import ssl
import threading
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from deployment import check, init, registration
from deployment.check import problems_of
from deployment.register import record
from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError, RunError


@pytest.fixture
def on_a_free_port(tmp_path):
    """A deployment whose ports nobody has, on this machine."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = {"port": one.getsockname()[1], "control_port": two.getsockname()[1]}
    return init.create(tmp_path / "federation", ["A", "B"], **ports)


@pytest.fixture
def listening():
    """Listen on a port, with TLS or without."""
    sockets = []

    def listen(port, folder=None, date=None):
        server = socket.create_server(("127.0.0.1", port))
        sockets.append(server)
        context = None
        if folder is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.crt", folder / "server.key")

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                try:
                    if context is None:
                        connection.sendall(b"220 I speak no TLS\r\n")
                    else:
                        connection = context.wrap_socket(connection, server_side=True)
                        if date is not None and connection.recv(4096):
                            head = f"HTTP/1.1 403 Forbidden\r\nDate: {date}\r\n"
                            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
                except OSError:
                    pass
                connection.close()

        threading.Thread(target=serve, daemon=True).start()

    yield listen
    for each in sockets:
        each.shutdown(socket.SHUT_RDWR)
        each.close()


def test_nothing_is_wrong_with_a_new_deployment(on_a_free_port, tiny_set):
    root = on_a_free_port.root
    assert problems_of(root, {}) == []
    assert problems_of(root, {"A": tiny_set}, ReadAs(label_key="cell_type")) == []


def test_everything_wrong_is_told_at_once(on_a_free_port, tmp_path):
    d = on_a_free_port
    (d.server / "server.key").unlink()
    (d.server / "keys" / "B.pub").unlink()
    (d.lab("A") / "supernode.key").chmod(0o644)
    (d.ca / "ca.key").chmod(0o640)
    (d.lab("B") / "state").rmdir()
    found = "\n".join(problems_of(d.root, {"A": tmp_path / "none.h5ad"}))
    for said in (
        f"{d.server / 'server.key'} is missing",
        f"{d.server / 'keys' / 'B.pub'} is missing",
        f"lab A: {d.lab('A') / 'supernode.key'} can be read by others (mode 644): chmod 600",
        f"{d.ca / 'ca.key'} can be read by others (mode 640)",
        f"lab B: {d.lab('B') / 'state'} is missing",
        "none.h5ad",
    ):
        assert said in found
    assert found.count("\n") == 5


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("server/server.crt", "other", "was not signed by the authority"),
        ("server/server.key", "other", "does not belong to its private key"),
        ("server/server.crt", b"garbage", "is not a PEM certificate"),
        ("labs/A/runtime.crt", "other", "lab A"),
        ("labs/A/ca.crt", "other", "was not signed by the authority"),
        ("labs/A/supernode.key", "other", "does not belong to"),
        ("labs/A/supernode.key", b"garbage", "cannot be read as an OpenSSH key"),
    ],
)
def test_what_does_not_belong_together_is_told(on_a_free_port, tmp_path, file, content, said):
    if content == "other":
        content = (init.create(tmp_path / "other", ["A"]).root / file).read_bytes()
    (on_a_free_port.root / file).write_bytes(content)
    assert said in "\n".join(problems_of(on_a_free_port.root, {}))


def test_an_expired_certificate_is_told_with_the_remedy(on_a_free_port):
    found = check._certificate_problems(
        on_a_free_port.server, "server", "renew it", datetime(2999, 1, 1, tzinfo=UTC)
    )
    assert len(found) == 1
    assert "expired on" in found[0]
    assert found[0].endswith("; renew it")


def test_data_are_read_as_the_run_will(on_a_free_port, tiny_set):
    root = on_a_free_port.root
    (found,) = problems_of(root, {"B": tiny_set}, ReadAs(label_key="nothing"))
    assert found.startswith("lab B: ")
    assert "nothing" in found
    shutil.copy(tiny_set, on_a_free_port.lab("A") / "data" / "cells.h5ad")
    (found,) = problems_of(root, {}, ReadAs(layer="missing"))
    assert found.startswith("lab A: ")
    with pytest.raises(ConfigError, match="no such lab"):
        problems_of(root, {"C": tiny_set})


def test_what_a_lab_says_of_its_own_file_is_checked_as_the_run_will_read_it(
    on_a_free_port, tiny_set
):
    data = on_a_free_port.lab("A") / "data"
    shutil.copy(tiny_set, data / "cells.h5ad")
    own = data / "labs.toml"
    own.write_text("[A]\nlabel-key = 'donor'\n")
    assert problems_of(on_a_free_port.root, {}, ReadAs(label_key="annotation")) == []
    own.write_text("[A]\nbatch-key = 'plate'\n")
    (found,) = problems_of(on_a_free_port.root, {})
    assert "batch-key = 'plate': obs has no such column" in found
    own.unlink()
    (found,) = problems_of(on_a_free_port.root, {}, batch_key="plate")
    assert "batch-key = 'plate': obs has no such column" in found
    own.write_text("[A]\nlabel = 'donor'\n")
    (found,) = problems_of(on_a_free_port.root, {})
    assert "label = 'donor'; known are" in found


def test_a_nearly_full_disk_is_told(on_a_free_port, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    (found,) = problems_of(on_a_free_port.root, {})
    assert "has 1 MB left" in found


@pytest.mark.parametrize("which", ["port", "control_port"])
def test_a_port_that_something_else_has_is_told(on_a_free_port, listening, which):
    port = getattr(on_a_free_port, which)
    listening(port)
    (found,) = problems_of(on_a_free_port.root, {})
    assert f"port {port} is taken by something else" in found


def test_a_gate_of_our_own_is_no_problem(on_a_free_port, listening):
    listening(on_a_free_port.port, on_a_free_port.server)
    assert problems_of(on_a_free_port.root, {}) == []


def test_keys_the_server_does_not_know_are_told(on_a_free_port, listening, monkeypatch):
    d = on_a_free_port
    listening(d.control_port, d.server)
    d.save_nodes({"A": "11", "B": "22"})
    record(d.register, "A", (d.server / "keys" / "A.pub").read_bytes())
    monkeypatch.setattr(registration, "nodes", lambda _: [{"node-id": "11", "status": "offline"}])
    (found,) = problems_of(d.root, {})
    assert (
        found == f"lab B: its key is not registered at the server: fedsc deploy register {d.root}"
    )


def test_a_lab_that_is_not_in_the_register_is_told(on_a_free_port, listening, monkeypatch):
    d = on_a_free_port
    listening(d.control_port, d.server)
    d.save_nodes({"A": "11", "B": "22"})
    record(d.register, "A", (d.server / "keys" / "A.pub").read_bytes())
    there = [{"node-id": "11", "status": "online"}, {"node-id": "22", "status": "online"}]
    monkeypatch.setattr(registration, "nodes", lambda _: there)
    (found,) = problems_of(d.root, {})
    assert found.startswith("lab B: its key is not registered")


def test_another_key_in_the_register_is_told(on_a_free_port):
    d = on_a_free_port
    record(d.register, "A", (d.server / "keys" / "B.pub").read_bytes())
    (found,) = problems_of(d.root, {})
    assert f"does not belong to {d.register / 'A.pub'}; the server will refuse" in found


def test_a_server_that_does_not_answer_is_told(on_a_free_port, listening, monkeypatch):
    d = on_a_free_port
    listening(d.control_port, d.server)

    def fail(_):
        raise RunError("flwr supernode failed: it said why")

    monkeypatch.setattr(registration, "nodes", fail)
    (found,) = problems_of(d.root, {})
    assert "does not answer: flwr supernode failed: it said why" in found


def test_a_lab_checks_its_own_folder(on_a_free_port, listening, tmp_path, tiny_set):
    d = on_a_free_port
    folder = shutil.copytree(d.lab("A"), tmp_path / "elsewhere")
    data, way = problems_of(folder, {})
    assert str(folder / "data" / "cells.h5ad") in data
    assert way.startswith(f"the server localhost:{d.port}: it cannot be reached")
    listening(d.port, d.server)
    assert problems_of(folder, {"A": tiny_set}) == []


def test_a_lab_is_told_when_the_server_is_another(on_a_free_port, listening, tmp_path, tiny_set):
    d = on_a_free_port
    listening(d.port, init.create(tmp_path / "other", ["A"]).server)
    (found,) = problems_of(d.lab("A"), {"A": tiny_set})
    assert "its certificate is not trusted" in found


@pytest.mark.skipif(os.getuid() == 0, reason="root can read every file")
def test_a_file_without_permission_is_told(on_a_free_port):
    key = on_a_free_port.server / "server.key"
    key.chmod(0)
    assert f"{key} cannot be read: Permission denied" in problems_of(on_a_free_port.root, {})


def test_a_folder_that_is_no_deployment_is_told(tmp_path):
    with pytest.raises(ConfigError, match="not a deployment"):
        problems_of(tmp_path, {})
    (tmp_path / "lab.toml").write_text("lab = 'A'\n")
    with pytest.raises(ConfigError, match=r"lab\.toml cannot be read"):
        problems_of(tmp_path, {})
    (tmp_path / "lab.toml").write_text("lab = 'A'\nserver = 'fedsc.example.org'\n")
    with pytest.raises(ConfigError, match=r"server = 'fedsc\.example\.org' should be HOST:PORT"):
        problems_of(tmp_path, {})


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (timedelta(), None),
        (timedelta(minutes=4), None),
        (timedelta(seconds=-3), None),
        (timedelta(days=1, minutes=5), "1 day, 0:0[45]:.. behind the server's"),
        (timedelta(minutes=-10), "0:10:0. ahead of the server's"),
        (timedelta(seconds=-60), "0:01:0. ahead of the server's"),
    ],
)
def test_a_lab_s_clock_is_compared_with_the_server_s(
    on_a_free_port, listening, tiny_set, off, words
):
    d = on_a_free_port
    date = format_datetime(datetime.now(UTC) + off, usegmt=True)
    listening(d.port, d.server, date)
    found = problems_of(d.lab("A"), {"A": tiny_set})
    if words is None:
        assert found == []
    else:
        (problem,) = found
        assert re.search(words, problem)
        assert "set both by network time" in problem


def test_a_server_that_tells_no_time_is_no_problem(on_a_free_port, listening, tiny_set):
    d = on_a_free_port
    listening(d.port, d.server, "yesterday")
    assert problems_of(d.lab("A"), {"A": tiny_set}) == []
