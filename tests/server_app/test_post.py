from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from server_app.post import Post


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


class Network(HttpGrid):
    """A SuperLink with nodes that answer, or do not, as each test says.

    ``behaviour`` maps a node to how many seconds it takes, or to a function of the time that tells;
    ``None`` = it never answers. ``lost`` messages are never answered.
    """

    def __init__(self, clock, behaviour):
        super().__init__(token="x")
        self.clock = clock
        self.behaviour = behaviour
        self.sent = {}
        self.pulled = []
        self.lost = set()

    def get_node_ids(self):
        return list(self.behaviour)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            self.sent[message.metadata.message_id] = (self.clock.now, message)
            node = message.metadata.dst_node_id
            ids.append(None if self.behaviour[node] == "refused" else message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids):
        out = []
        for message_id in message_ids:
            self.pulled.append(message_id)
            then, message = self.sent[message_id]
            how = self.behaviour.get(message.metadata.dst_node_id, "gone")
            how = how(self.clock.now) if callable(how) else how
            if how == "rubbish":
                raise ValueError("not a message")
            if how == "gone":
                reply = Message(Error(5, "Error: Node Unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1  # the SuperLink speaks
                out.append(reply)
            elif message_id in self.lost:
                continue
            elif isinstance(how, int) and self.clock.now >= then + how:
                record = ConfigRecord({"to": message_id})
                out.append(Message(RecordDict({"a": record}), reply_to=message))
        return out


def _messages(*nodes, group="1"):
    return [Message(RecordDict(), node, "train", group_id=group) for node in nodes]


def _outcome(replies):
    return {
        reply.metadata.src_node_id: reply.error.reason if reply.has_error() else "replied"
        for reply in replies
    }


def test_every_node_is_heard(clock):
    network = Network(clock, {7: 0, 8: 3})
    replies = Post(network, clock).deliver(_messages(7, 8), timeout=60)
    assert _outcome(replies) == {7: "replied", 8: "replied"}
    assert 3 <= clock.now < 4  # not Flower's next 3 s


def test_a_reply_is_asked_for_less_often_the_longer_it_takes(clock):
    network = Network(clock, {7: 3600})
    Post(network, clock).deliver(_messages(7), timeout=4000)
    assert len(network.pulled) < 3700


def test_a_node_that_never_answers_is_waited_for_until_the_timeout_and_no_longer(clock):
    replies = Post(Network(clock, {7: 0, 8: None}), clock).deliver(_messages(7, 8), timeout=60)
    assert _outcome(replies) == {7: "replied", 8: "did not answer within 60 s"}
    assert clock.now == pytest.approx(60)


def test_a_busy_node_is_sent_nothing_and_costs_no_time_until_its_late_reply_is_there(clock):
    network = Network(clock, {7: 0, 8: 90})
    office = Post(network, clock)
    office.deliver(_messages(7, 8, group="1"), timeout=60)
    second = office.deliver(_messages(7, 8, group="2"), timeout=60)
    assert _outcome(second) == {7: "replied", 8: "is still busy with an earlier message"}
    assert clock.now < 61
    clock.now = 100
    network.behaviour[8] = 0
    third = office.deliver(_messages(7, 8, group="3"), timeout=60)
    assert _outcome(third) == {7: "replied", 8: "replied"}
    # The late reply was thrown away: this is the reply to the third message.
    (own,) = [reply for reply in third if reply.metadata.src_node_id == 8]
    assert own.metadata.group_id == "3"
    to_8 = [m for _, m in network.sent.values() if m.metadata.dst_node_id == 8]
    assert [message.metadata.group_id for message in to_8] == ["1", "3"]


def test_a_busy_node_that_left_and_came_back_owes_nothing(clock):
    network = Network(clock, {7: None})
    office = Post(network, clock)
    office.deliver(_messages(7), timeout=60)
    network.behaviour = {}
    assert office.present() == set()
    network.behaviour = {7: 0}
    assert _outcome(office.deliver(_messages(7), timeout=60)) == {7: "replied"}


def test_a_node_that_is_gone_for_a_moment_is_seen_while_others_are_waited_for(clock):
    """A SuperNode that is restarted: offline for 3 s, then there again without its message."""
    network = Network(clock, {7: 50, 8: lambda now: "gone" if 80 < now < 83 else 0})
    network.lost = {"m1"}
    office = Post(network, clock)
    first = office.deliver(_messages(7, 8, group="1"), timeout=60)
    assert _outcome(first)[8] == "did not answer within 60 s"
    second = office.deliver(_messages(7, 8, group="2"), timeout=60)
    assert _outcome(second)[8] == "is still busy with an earlier message"
    assert 83 < clock.now < 120
    third = office.deliver(_messages(7, 8, group="3"), timeout=60)
    assert _outcome(third) == {7: "replied", 8: "replied"}


def test_a_node_that_lost_its_message_unnoticed_is_sent_another_in_time(clock):
    network = Network(clock, {7: 0, 8: 0})
    network.lost = {"m1"}
    office = Post(network, clock)
    office.deliver(_messages(7, 8, group="1"), timeout=60)
    clock.now = 119
    assert "busy" in _outcome(office.deliver(_messages(7, 8, group="2"), timeout=60))[8]
    clock.now = 121
    third = office.deliver(_messages(7, 8, group="3"), timeout=60)
    assert _outcome(third) == {7: "replied", 8: "replied"}
    # It owes nothing: a new silence is waited for as the first one was.
    network.behaviour[8] = None
    office.deliver(_messages(7, 8, group="4"), timeout=60)
    clock.now += 61
    network.behaviour[8] = 0
    network.lost |= set(network.sent)
    assert _outcome(office.deliver(_messages(7, 8, group="5"), timeout=60))[8] == "replied"


def test_a_node_that_hangs_is_tried_less_and_less_often(clock):
    network = Network(clock, {7: 10, 8: None})
    office = Post(network, clock)
    while clock.now < 4000:
        office.deliver(_messages(7, 8), timeout=60)
    tried = [then for then, m in network.sent.values() if m.metadata.dst_node_id == 8]
    for n, (earlier, later) in enumerate(pairwise(tried)):
        # Waited for 60 s, then left alone for 60 s, 120 s, 240 s …, to the end of a round of 10 s.
        assert 0 <= later - earlier - 60 - 60 * 2**n < 11
    assert len(tried) == 6


def test_what_the_superlink_says_of_a_node_is_that_nodes_failure(clock):
    network = Network(clock, {7: 0, 8: "gone"})
    outcome = _outcome(Post(network, clock).deliver(_messages(7, 8), timeout=60))
    assert outcome == {7: "replied", 8: "Error: Node Unavailable"}


@pytest.mark.parametrize(
    ("how", "words"), [("rubbish", "sent what is no reply"), ("refused", "could not be reached")]
)
def test_one_odd_node_takes_no_other_with_it(clock, how, words):
    outcome = _outcome(
        Post(Network(clock, {7: how, 8: 0}), clock).deliver(_messages(7, 8), timeout=60)
    )
    assert outcome[8] == "replied"
    assert words in outcome[7]


class Direct:
    """A grid of another kind: it is asked as Flower has it."""

    def __init__(self, replies):
        self.replies = replies

    def get_node_ids(self):
        return [7, 8]

    def send_and_receive(self, messages, *, timeout):
        return self.replies(messages)


def test_a_reply_to_an_earlier_round_is_no_reply():
    earlier = _messages(7, group="1")[0]

    def replies(messages):
        stale = Message(RecordDict(), reply_to=earlier)
        return [stale, *(Message(RecordDict(), reply_to=m) for m in messages[1:])]

    outcome = _outcome(Post(Direct(replies)).deliver(_messages(7, 8, group="2"), timeout=60))
    assert outcome == {7: "did not answer within 60 s", 8: "replied"}


def test_what_messages_carry_is_counted_once(clock):
    """Messages that were sent and replies, late ones too; what is refused or lost is not."""
    post = Post(Network(clock, {2: 0, 3: 7, 4: "refused", 5: "gone", 6: None}), clock)
    record = ConfigRecord({"name": "é", "n": 1, "flags": [True, False], "raw": b"12345"})
    messages = [
        Message(RecordDict({"a": record}), node, "train", group_id="1") for node in range(2, 7)
    ]
    post.deliver(messages, timeout=3)
    assert post.traffic.to_labs == 4 * (2 + 8 + 16 + 5)
    assert post.traffic.from_labs == len("m0")
    clock.sleep(10)
    post.present()
    assert post.traffic.from_labs == len("m0") + len("m1")
    post.present()
    assert post.traffic.from_labs == len("m0") + len("m1")
