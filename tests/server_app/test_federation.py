"""Who is there: labs that join, leave, come back, or cannot take part."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsc.errors import RunError
from fedsc.federated.answers import answer, no_embedding
from fedsc.federated.query import Question
from fedsc.options import FederationOptions
from protocol import records
from server_app.federation import Federation, LabsLost


class Nodes:
    """A grid whose nodes' answers a test writes down: by node, a function of the message."""

    def __init__(self, **nodes):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.nodes = {int(name[1:]): answer for name, answer in nodes.items()}
        self.asked = []

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout):
        out = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append(node)
            content = self.nodes[node](message)
            if content is not None:
                out.append(Message(content, reply_to=message))
        return out


def lab(name, **changes):
    about = {"cells": 5, "kind": "counts", "genes": b"a\nb", "siblings": 0, **changes}
    return lambda message: RecordDict({f"about:{name}": ConfigRecord(about)})


def refusing(reason="no file"):
    return lambda message: RecordDict({"error": ConfigRecord({"reason": reason})})


@pytest.fixture
def federation(tiny, clock):
    run = {"name": "run", "folder": "/run"}
    return lambda grid: Federation(grid, tiny.federation, run, clock=clock)


def test_a_lab_that_failed_to_describe_itself_is_asked_again_later(federation):
    grid = Nodes(n1=lab("A"), n2=refusing())
    labs = federation(grid)
    labs.gather()
    assert list(labs.labs) == ["A"]
    grid.nodes[2] = lab("B")
    for _ in range(3):
        labs.welcome()
    assert list(labs.labs) == ["A", "B"]


def test_a_hopeless_node_is_asked_ever_more_rarely_and_a_good_one_once(federation):
    grid = Nodes(n1=lab("A"), n2=refusing())
    labs = federation(grid)
    for _ in range(64):
        labs.welcome()
    assert grid.asked.count(1) == 1
    assert 8 <= grid.asked.count(2) <= 12


def test_a_run_gives_up_on_labs_none_of_which_can_use_its_data(federation):
    with pytest.raises(RunError, match="no lab can take part: no file; no file"):
        federation(Nodes(n1=refusing(), n2=refusing())).gather()


def test_a_node_without_a_lab_is_no_trouble(federation, caplog):
    grid = Nodes(n1=lab("A"), n2=lambda message: RecordDict())
    labs = federation(grid)
    for _ in range(4):
        labs.welcome()
    assert grid.asked == [1, 2]
    assert "cannot take part" not in caplog.text


def test_two_live_nodes_with_one_name_are_refused(federation, caplog):
    grid = Nodes(n1=lab("A"), n2=lab("A", cells=9))
    labs = federation(grid)
    with caplog.at_level("WARNING", logger="flwr"):
        labs.gather()
    assert (labs.labs["A"].node, labs.labs["A"].cells) == (1, 5)
    assert "two nodes call themselves A" in caplog.text


def test_a_restarted_lab_takes_the_place_of_its_vanished_node(federation):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid)
    labs.gather()
    grid.nodes[3] = lab("A")  # restarted, while its old node has not expired
    labs.welcome()
    assert labs.labs["A"].node == 1
    del grid.nodes[1]
    for _ in range(3):
        labs.welcome()
    assert labs.labs["A"].node == 3
    assert list(labs.labs) == ["A", "B"]


def test_a_lab_that_left_has_failed_at_once_and_in_words(federation):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid)
    labs.gather()
    del grid.nodes[2]
    labs.await_labs()
    answers = labs.tell(labs.labs, records.FINISH, RecordDict())
    assert answers.failures["B"] == "is not connected"
    assert grid.asked[-1] == 1


def test_a_round_waits_for_as_many_labs_as_it_needs(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid)
    labs.options = FederationOptions(min_labs=2)
    labs.gather()
    away = grid.nodes.pop(2)
    clock.at_wait[4] = lambda: grid.nodes.update({2: away})
    labs.await_labs()
    assert len(clock.waits) == 4


def test_a_round_waits_no_longer_than_its_timeout(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid)
    labs.options = FederationOptions(min_labs=2, round_timeout=60.0)
    labs.gather()
    del grid.nodes[2]
    with pytest.raises(RunError, match="1 of 2 labs are connected, 2 needed; not connected: B"):
        labs.await_labs()
    assert 60 < clock.now <= 65


@pytest.mark.parametrize(
    "odd",
    [
        lambda message: RecordDict({"error": ConfigRecord({"reason": 3})}),
        lambda message: RecordDict({"error": ConfigRecord({})}),
        lambda message: RecordDict({"about:B": ConfigRecord({"cells": 1})}),
        lambda message: RecordDict({"about:" + "x" * 10**6: ConfigRecord({"cells": 1})}),
        lab("B", cells=10**12),
        lab("B", cells=-1),
        lab("B", genes=b""),
        lab("../B"),
        lambda message: None,
    ],
)
def test_an_odd_description_is_that_nodes_trouble_alone(federation, odd, caplog):
    labs = federation(Nodes(n1=odd, n2=lab("A")))
    with caplog.at_level("WARNING", logger="flwr"):
        labs.gather()
    assert list(labs.labs) == ["A"]
    assert "a node cannot take part" in caplog.text
    assert all(len(record.getMessage()) < 800 for record in caplog.records)


def _answering(name, sums, cells=5):
    describe = lab(name, cells=cells)

    def answer(message):
        if message.metadata.message_type == records.DESCRIBE:
            return describe(message)
        return RecordDict({f"sums:{name}": records.pack_arrays(sums)})

    return answer


def _nothing(question):
    return answer(no_embedding(2), question)


def _mean(n, value, dimensions=2):
    return {
        "n": np.array([n]),
        "sum": np.full(dimensions, value, dtype=float),
        "squares": np.full(dimensions, value, dtype=float),
    }


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        (_mean(6, 1.0), "kmeans-mean: n counts 6 to 6 of 5 cells"),
        (_mean(-1, 1.0), "n counts -1"),
        (_mean(5, np.nan), "NaN"),
        (_mean(5, 1.0, dimensions=3), r"\(3,\)"),
        ({"n": np.array([5])}, "do not fit"),
    ],
)
def test_a_lab_whose_sums_cannot_be_is_lost_not_the_run(federation, sums, words):
    labs = federation(Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_answering("B", sums)))
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), _nothing)
    with pytest.raises(LabsLost, match=words) as lost:
        ask(Question("kmeans-mean"))
    assert lost.value.labs == ["B"]
    labs.exclude(lost.value)
    assert ask(Question("kmeans-mean"))["n"].tolist() == [5]


def test_a_node_speaks_for_its_own_labs_only(federation):
    def both(message):
        if message.metadata.message_type == records.DESCRIBE:
            return lab("A")(message)
        sums = records.pack_arrays(_mean(5, 1.0))
        return RecordDict(
            {"sums:A": sums, "sums:B": sums, "error:B": ConfigRecord({"reason": "x"})}
        )

    labs = federation(Nodes(n1=both, n2=_answering("B", _mean(5, 2.0))))
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), _nothing)
    assert ask(Question("kmeans-mean"))["sum"].tolist() == [3.0, 3.0]


def test_a_crash_is_the_last_line_of_its_traceback(federation):
    grid = Nodes(n1=lab("A"))
    labs = federation(grid)
    labs.gather()
    grid.send_and_receive = lambda messages, timeout: [
        Message(Error(1, "Traceback\n File\nKeyError: 'x'\n"), reply_to=m) for m in messages
    ]
    assert labs.tell(["A"], records.FINISH, RecordDict()).failures == {"A": "KeyError: 'x'"}
