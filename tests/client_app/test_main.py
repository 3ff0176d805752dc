"""What a node answers: for the labs a message names, and without a word of their data."""

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client_app import app, main
from protocol.records import ADDRESSEES, DESCRIBE, labs_in, pack_addressees


@pytest.fixture
def ask(tiny):
    """Send a message to a node, which hosts all labs of a simulation unless it is another's."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    simulated = {"partition-id": 0, "num-partitions": 1}

    def ask(node=simulated, **records):
        context = Context(1, 1, node, RecordDict(), tiny.to_mapping())
        content = RecordDict({"run": ConfigRecord({"name": "run", "folder": "/run"}), **records})
        return app(Message(content, 1, DESCRIBE), context).content

    return ask


def test_the_labs_that_a_message_names_answer_it(ask):
    everybody = labs_in(ask(), "about")
    assert len(everybody) > 2
    assert labs_in(ask(**{ADDRESSEES: pack_addressees(everybody[1:2])}), "about") == everybody[1:2]


def test_a_failure_before_any_lab_is_told_without_its_text(ask, monkeypatch):
    def denied(*given):
        raise PermissionError(13, "Permission denied", "/home/ward-7/patients.h5ad")

    monkeypatch.setattr(main, "hosted_labs", denied)
    told = ask({"lab": "A", "data": "/home/ward-7/patients.h5ad"})["error"]
    assert told["reason"] == "PermissionError: the lab's own log says more"
    assert not told["final"]
