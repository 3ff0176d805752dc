"""Labs behind a network: who describes itself late, anew, or under names it makes up."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsc.errors import RunError
from fedsc.options import FederationOptions
from server_app.roster import Roster

FILTER = RecordDict({"filter": ConfigRecord({"least": 1})})


class Slow:
    """A stand-in for the post of a network, where some nodes take their time.

    ``nodes`` are functions of the message; ``slow`` gives the time at which a node's answers come.
    """

    remote = True

    def __init__(self, clock, **nodes):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.clock = clock
        self.nodes = {int(name[1:]): answer for name, answer in nodes.items()}
        self.slow, self.owed = {}, {}

    def present(self):
        return set(self.nodes)

    def busy(self, node):
        return node in self.owed and self.clock.now < self.slow[node]

    def late(self, message_type, group):
        found = [self.owed.pop(node) for node in list(self.owed) if not self.busy(node)]
        replies = [Message(self.nodes[m.metadata.dst_node_id](m), reply_to=m) for m in found]
        return [reply for reply in replies if reply.metadata.group_id == group]

    def deliver(self, messages, timeout):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if self.clock.now < self.slow.get(node, 0):
                self.owed[node] = message
            else:
                replies.append(Message(self.nodes[node](message), reply_to=message))
        return replies


def lab(name, cells=100, kept=80):
    def answer(message):
        told = {"cells": kept if "filter" in message.content else cells, "kind": "counts"}
        return RecordDict(
            {f"about:{name}": ConfigRecord({**told, "genes": b"a\nb", "siblings": 0})}
        )

    return answer


def cells_of(roster):
    return {name: about.cells for name, about in roster.labs.items()}


@pytest.fixture
def roster(clock):
    def make(wanted=2, **nodes):
        post = Slow(clock, **nodes)
        options = FederationOptions(wait_for_labs=wanted, round_timeout=600.0)
        return Roster(post, options, {"name": "run", "folder": "/run"}, 1, clock)

    return make


def test_labs_that_filter_slowly_are_waited_for_as_long_as_a_round(roster, clock):
    labs = roster(n1=lab("A"), n2=lab("B"))
    labs.gather()
    assert cells_of(labs) == {"A": 100, "B": 100}
    labs.post.slow = {1: 200.0, 2: 400.0}
    labs.describe_anew(FILTER)
    assert cells_of(labs) == {"A": 80, "B": 80}
    assert 400 <= clock.now < 410


def test_labs_that_do_not_filter_in_time_are_named(roster):
    labs = roster(n1=lab("A"), n2=lab("B"), n3=lab("C"), wanted=3)
    labs.gather()
    labs.post.slow = {1: 9999.0, 3: 9999.0}
    with pytest.raises(RunError, match=r"1 of 3 labs are left: A, C did not describe .* 600 s"):
        labs.describe_anew(FILTER)


def test_a_lab_that_cannot_be_filtered_says_why_and_is_not_waited_for(roster, clock):
    def refusing(message):
        if "filter" in message.content:
            return RecordDict({"error:B": ConfigRecord({"reason": "no cell left", "final": True})})
        return lab("B")(message)

    labs = roster(n1=lab("A"), n2=refusing)
    labs.gather()
    labs.describe_anew(FILTER)
    assert cells_of(labs) == {"A": 80}
    assert clock.now == 0


def test_a_lab_that_left_before_is_not_waited_for(roster, clock):
    labs = roster(n1=lab("A"), n2=lab("B"), n3=lab("C"), wanted=3)
    labs.gather()
    del labs.post.nodes[2], labs.post.nodes[3]
    with pytest.raises(RunError, match="1 of 3 labs are left: B, C: not connected"):
        labs.describe_anew(FILTER)
    assert clock.now == 0


def test_what_a_late_lab_said_of_all_its_cells_does_not_count_after_the_filter(roster, clock):
    labs = roster(n1=lab("A"), n2=lab("B"), n3=lab("C"))
    labs.post.slow = {3: 30.0}
    labs.gather()
    assert cells_of(labs) == {"A": 100, "B": 100}
    labs.describe_anew(FILTER)
    clock.now = 31.0  # now C answers the question put before
    labs.welcome()
    labs.welcome()
    assert cells_of(labs) == {"A": 80, "B": 80, "C": 80}


def test_a_node_that_refuses_under_many_names_counts_once(roster, clock):
    def many(message):
        no = ConfigRecord({"reason": "no file", "final": True})
        return RecordDict({f"error:lab-{i}": no for i in range(5)})

    labs = roster(n1=lab("A"), n2=many, wanted=3)
    clock.after[100] = lambda: labs.post.nodes.update({3: lab("C")})
    labs.gather()
    assert cells_of(labs) == {"A": 100, "C": 100}
    assert clock.now >= 100
