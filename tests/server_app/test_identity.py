"""Who takes another lab's name: thieves, doubles, early comers; the honest lab stays."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from deployment.certificates import make_supernode_key
from deployment.register import record
from fedsc.errors import RunError
from fedsc.options import FederationOptions
from protocol.identity import sign
from server_app.federation import Federation
from server_app.identity import Identities

RUN = 42
KEYS = {lab: make_supernode_key() for lab in ("A", "B", "M")}
"""Private and public key of every lab; M is the one that lies, where one does."""


class Nodes:
    """A grid whose nodes describe themselves as written down."""

    def __init__(self, nodes):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.nodes = nodes

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout):
        return [Message(self.nodes[m.metadata.dst_node_id], reply_to=m) for m in messages]


def told(lab, signature=b"", **changes):
    about = {"cells": 5, "kind": "counts", "genes": b"a\nb", "siblings": 0, **changes}
    return RecordDict({f"about:{lab}": ConfigRecord(about | {"signature": signature})})


def signed(lab, node, key=None, run=RUN, **changes):
    return told(lab, sign(KEYS[key or lab][0], run, node, lab), **changes)


@pytest.fixture
def register(tmp_path):
    for lab, (_, public) in KEYS.items():
        record(tmp_path / "register", lab, public)
    return tmp_path / "register"


@pytest.fixture
def federation(register, clock):
    def make(grid, register=register, **options):
        wanted = FederationOptions(**{"wait_for_labs": 1, **options})
        run = {"name": "run", "folder": "/run"}
        return Federation(grid, wanted, run, 1, clock, Identities(register, RUN))

    return make


def here(labs, turns=20):
    for _ in range(turns):
        labs.begin()
    return {lab: about.node for lab, about in labs.labs.items()}


def test_labs_that_sign_their_names_take_part(federation):
    labs = federation(Nodes({1: signed("A", 1), 2: signed("B", 2)}), wait_for_labs=2)
    labs.gather()
    assert here(labs) == {"A": 1, "B": 2}


LIES = {
    "no signature": (told("A"), "calls itself A and has not signed it with A's key"),
    "rubbish": (told("A", b"\x00" * 100), "its signature is not by A's key"),
    "its own key": (signed("A", 5, key="M"), "its signature is not by A's key"),
    "a replay of what A's node sent": (signed("A", 1), "over this run, node and name"),
    "a replay from another run": (signed("A", 5, run=RUN - 1), "over this run, node and name"),
    "another name signed with A's key": (
        told("A", sign(KEYS["A"][0], RUN, 5, "B")),
        "over this run, node and name",
    ),
    "a simulation": (signed("A", 5, key="M", siblings=2), "says that it is a simulation"),
}


@pytest.fixture(params=LIES, ids=str)
def lie(request):
    return LIES[request.param]


def test_a_thief_is_refused_while_the_lab_is_away(federation, lie, caplog):
    """This is how a lab's last upload was stolen: its name was free while it was away."""
    grid = Nodes({1: signed("A", 1), 2: signed("B", 2)})
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    away = grid.nodes.pop(1)
    grid.nodes[5] = lie[0]
    assert here(labs) == {"A": 1, "B": 2}
    assert labs.connected == ["B"]
    assert lie[1] in caplog.text
    assert caplog.text.count("node 5") <= 2  # its name once, in the message and its fields
    grid.nodes[1] = away
    assert here(labs) == {"A": 1, "B": 2}
    assert labs.connected == ["A", "B"]


def test_an_early_thief_holds_no_place(federation, clock, lie, caplog):
    grid = Nodes({5: lie[0]})
    labs = federation(grid, wait_for_labs=2)
    clock.after[20] = lambda: grid.nodes.update({1: signed("A", 1)})
    clock.after[60] = lambda: grid.nodes.update({2: signed("B", 2)})
    labs.gather()
    assert here(labs) == {"A": 1, "B": 2}
    assert clock.now >= 60  # a refused node does not count as one of the labs waited for
    assert lie[1] in caplog.text


def test_a_double_is_refused_and_the_lab_stays(federation, lie, caplog):
    grid = Nodes({1: signed("A", 1), 5: lie[0]})
    labs = federation(grid)
    labs.gather()
    assert here(labs) == {"A": 1}
    assert lie[1] in caplog.text


def test_a_run_of_thieves_alone_ends_with_its_wait(federation, lie):
    with pytest.raises(RunError, match="0 labs present after 60 s"):
        federation(Nodes({5: lie[0]}), round_timeout=60.0).gather()


@pytest.mark.parametrize("registered", [True, False])
def test_a_node_has_one_name(federation, register, registered, caplog):
    grid = Nodes({1: signed("A", 1), 5: RecordDict({**told("M"), **told("N")})})
    labs = federation(grid, register=register if registered else None)
    labs.gather()
    assert here(labs) == {"A": 1}
    why = "has not signed it" if registered else "node 5 calls itself M, N: the node of a real lab"
    assert why in caplog.text


def test_a_lab_of_two_keys_has_one_name_on_one_node(federation, caplog):
    """Both names are its own, and signed; still a node is one lab."""
    grid = Nodes({1: signed("A", 1), 5: RecordDict({**signed("M", 5), **signed("B", 5)})})
    labs = federation(grid)
    labs.gather()
    assert here(labs) == {"A": 1}
    assert "node 5 calls itself B, M: the node of a real lab has one name" in caplog.text
    grid.nodes[5] = signed("M", 5)
    assert here(labs) == {"A": 1, "M": 5}
    del grid.nodes[5]
    labs.begin()
    grid.nodes[5] = signed("B", 5)
    assert here(labs) == {"A": 1, "M": 5}


def test_a_lab_may_be_registered_while_a_run_waits(federation, register, clock, caplog):
    (register / "B.pub").unlink()
    grid = Nodes({1: signed("A", 1), 2: signed("B", 2)})
    labs = federation(grid, wait_for_labs=2)
    clock.after[30] = lambda: record(register, "B", KEYS["B"][1])
    labs.gather()
    assert here(labs) == {"A": 1, "B": 2}
    assert "no lab of that name is registered: fedsc deploy register" in caplog.text


def test_a_damaged_register_lets_nobody_in(federation, register, caplog):
    (register / "B.pub").write_bytes(b"rubbish")
    labs = federation(Nodes({1: signed("A", 1), 2: signed("B", 2)}))
    labs.gather()
    assert here(labs) == {"A": 1}
    assert "its signature is not by B's key" in caplog.text


def test_without_a_register_it_is_said_that_names_prove_nothing(federation, caplog):
    labs = federation(Nodes({1: told("A")}), register=None)
    labs.gather()
    assert here(labs) == {"A": 1}
    assert "this server has no register of keys" in caplog.text


def test_a_simulation_needs_no_key(federation, caplog):
    grid = Nodes({1: RecordDict({**told("A", siblings=2), **told("B", siblings=2)})})
    labs = federation(grid, register=None, wait_for_labs=0)
    labs.gather()
    assert here(labs) == {"A": 1, "B": 1}
    assert "register" not in caplog.text


def test_a_simulated_lab_does_not_join_real_ones_later(federation, caplog):
    grid = Nodes({1: told("A")})
    labs = federation(grid, register=None)
    labs.gather()
    grid.nodes[5] = told("B", siblings=1)
    assert here(labs) == {"A": 1}
    assert "lab B says it is simulated, and others are real" in caplog.text


def test_a_thief_is_told_nothing(federation):
    """Not even questions go to a node without a name."""
    grid = Nodes({1: signed("A", 1), 5: told("A")})
    labs = federation(grid)
    labs.gather()
    asked = []
    grid.send_and_receive = lambda messages, timeout: [asked.append(m) for m in messages] and []
    labs.tell_each({"A": RecordDict({"start:A": ConfigRecord({"x": np.float64(1.0)})})}, "train")
    assert [message.metadata.dst_node_id for message in asked] == [1]
