import shutil

import pytest

from deployment import registration
from deployment.register import key_of
from fedsc.errors import RunError


@pytest.fixture
def server(monkeypatch):
    """A SuperLink's list of nodes; ``refused`` keys are in use already."""
    state = {"nodes": [], "refused": set(), "keys": []}

    def ask(*arguments, home):
        if arguments[1] == "list":
            return {"nodes": state["nodes"]}
        lab = arguments[arguments.index("--name") + 1]
        state["keys"].append(arguments[-2])
        if lab in state["refused"]:
            raise RunError("flwr supernode failed: [code: 23] Public key already in use.")
        node = {"node-id": f"id-{lab}", "status": "registered"}
        state["nodes"].append(node)
        return node

    monkeypatch.setattr(registration.flower, "ask", ask)
    return state


def test_every_lab_is_registered_once(federation, server):
    assert registration.register(federation) == ["A", "B"]
    assert federation.nodes() == {"A": "id-A", "B": "id-B"}
    assert server["keys"] == [str(federation.server / "keys" / f"{lab}.pub") for lab in "AB"]
    assert registration.register(federation) == []
    assert len(server["keys"]) == 2


def test_a_name_and_its_key_stand_in_the_register_once_the_server_has_the_key(federation, server):
    server["refused"].add("B")
    with pytest.raises(RunError):
        registration.register(federation)
    public = (federation.server / "keys" / "A.pub").read_bytes()
    assert key_of(federation.register, "A") == public
    assert key_of(federation.register, "B") is None


def test_labs_that_an_earlier_version_registered_come_into_the_register(federation, server):
    registration.register(federation)
    shutil.rmtree(federation.register)
    assert registration.register(federation) == []
    assert len(server["keys"]) == 2
    assert key_of(federation.register, "A")
    assert key_of(federation.register, "B")


def test_a_public_key_that_is_missing_is_named(federation, server):
    (federation.server / "keys" / "A.pub").unlink()
    with pytest.raises(RunError, match=r"A\.pub cannot be read: No such file"):
        registration.register(federation)
    assert server["keys"] == []


def test_after_the_server_lost_its_state_all_are_registered_anew(federation, server):
    registration.register(federation)
    server["nodes"].clear()
    assert registration.register(federation) == ["A", "B"]


@pytest.mark.parametrize(("known", "new"), [("A", "B"), ("B", "A")])
def test_a_key_the_server_has_had_before_keeps_no_other_lab_out(federation, server, known, new):
    server["refused"].add(known)
    said = rf"registered: {new}; but the server has had the key of {known} before.*deployment\.toml"
    with pytest.raises(RunError, match=said):
        registration.register(federation)
    assert federation.nodes() == {new: f"id-{new}"}


def test_another_refusal_names_the_lab(federation, monkeypatch):
    def ask(*arguments, home):
        if arguments[1] == "list":
            return {"nodes": []}
        raise RunError("flwr supernode failed: no such file")

    monkeypatch.setattr(registration.flower, "ask", ask)
    with pytest.raises(RunError, match="lab A: flwr supernode failed: no such file"):
        registration.register(federation)


def test_online_labs_are_told_by_name(federation, server):
    registration.register(federation)
    server["nodes"][1]["status"] = "online"
    server["nodes"].append({"node-id": "id-A", "status": "unregistered"})
    assert registration.online(federation) == {"B"}
