"""Who is there: labs that join, leave, come back, or cannot take part."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsc.errors import ConfigError, DataError, RunError
from fedsc.federated.answers import answer, no_embedding
from fedsc.federated.query import Question
from fedsc.options import FederationOptions
from protocol import records
from protocol.replies import pack_error
from server_app.federation import Federation, LabsLost
from server_app.strategy import participants


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


def nothing(question):
    return answer(no_embedding(2), question)


def refusing(reason="no file"):
    return lambda message: RecordDict({"error": ConfigRecord({"reason": reason})})


@pytest.fixture
def federation(clock):
    def make(grid, min_cells=1, **options):
        wanted = FederationOptions(**{"wait_for_labs": 1, **options})
        return Federation(grid, wanted, {"name": "run", "folder": "/run"}, min_cells, clock)

    return make


def test_a_lab_that_failed_to_describe_itself_is_asked_again_later(federation):
    grid = Nodes(n1=lab("A"), n2=refusing())
    labs = federation(grid)
    labs.gather()
    assert list(labs.labs) == ["A"]
    grid.nodes[2] = lab("B")
    for _ in range(3):
        labs.begin()
    assert list(labs.labs) == ["A", "B"]


def test_real_labs_need_a_number_to_wait_for(federation):
    with pytest.raises(ConfigError, match=r"wait-for-labs = 0, and lab A is a real one"):
        federation(Nodes(n1=lab("A")), wait_for_labs=0).gather()


def test_a_run_waits_for_the_labs_it_is_to_wait_for(federation, clock):
    grid = Nodes(n1=lab("A"))
    labs = federation(grid, wait_for_labs=2)
    clock.after[30] = lambda: grid.nodes.update({2: lab("B")})
    labs.gather()
    assert list(labs.labs) == ["A", "B"]
    assert clock.now == pytest.approx(30)


def test_a_run_waits_for_labs_no_longer_than_its_timeout(federation, clock):
    with pytest.raises(RunError, match=r"1 labs present after 60 s, 2 waited for.*wait-for-labs"):
        federation(Nodes(n1=lab("A")), wait_for_labs=2, round_timeout=60.0).gather()
    assert clock.now <= 62


@pytest.mark.parametrize("wait_for_labs", [0, 2])
def test_one_real_lab_that_claims_a_thousand_siblings_does_not_hold_the_start(
    federation, clock, wait_for_labs, caplog
):
    grid = Nodes(n1=lab("A", siblings=1000), n2=lab("B"), n3=lab("C"))
    labs = federation(grid, wait_for_labs=wait_for_labs)
    if not wait_for_labs:
        with pytest.raises(ConfigError, match="lab B is a real one"):
            labs.gather()
        return
    labs.gather()
    assert list(labs.labs) == ["B", "C"]
    assert "lab A says it is simulated" in caplog.text
    assert clock.now == 0


def test_a_node_that_cannot_take_part_for_good_is_told_once_and_the_others_go_on(
    federation, clock, caplog
):
    def one_of_two(message):
        about = lab("A", siblings=3)(message)
        about.update(lab("B", siblings=3)(message))
        about["error:C"] = pack_error(DataError.without_data("no label column 'x'"))
        return about

    labs = federation(Nodes(n1=one_of_two), wait_for_labs=0)
    labs.gather()
    assert list(labs.labs) == ["A", "B"]
    assert clock.now == 0
    for _ in range(20):
        labs.begin()
    assert caplog.text.count("no label column 'x'") == 1


def test_a_node_whose_error_is_for_good_ends_a_run_of_no_other_at_once(federation, clock):
    def wrong(message):
        return RecordDict({"error": pack_error(ConfigError.without_data("no column 'donor'"))})

    with pytest.raises(RunError, match=r"^no lab can take part: no column 'donor'$"):
        federation(Nodes(n1=wrong, n2=wrong), wait_for_labs=0).gather()
    assert clock.now == 0


@pytest.mark.parametrize(
    ("about", "options", "words"),
    [
        ({"cells": 9}, {"min_cells": 10}, "lab B has 9 cells, fewer than min-cells = 10"),
        ({"cells": 99}, {"max_cells": 98}, "lab B claims 99 cells, more than max-cells = 98"),
        ({"genes": b"a\nb\nc"}, {"max_genes": 2}, "lab B claims 3 genes, more than max-genes = 2"),
        ({"types": b"a\nb"}, {"max_types": 1}, "lab B claims 2 types, more than max-types = 1"),
        ({"types": b"a\nb", "cells": 1}, {}, "lab B names 2 cell types of 1 cells"),
    ],
)
def test_a_lab_of_impossible_size_is_refused_by_name(federation, about, options, words, caplog):
    grid = Nodes(n1=lab("A", cells=50), n2=lab("B", **{"cells": 50, **about}))
    labs = federation(grid, **options)
    labs.gather()
    assert list(labs.labs) == ["A"]
    assert words in caplog.text


def test_a_hopeless_node_is_asked_ever_more_rarely_and_a_good_one_once(federation):
    grid = Nodes(n1=lab("A"), n2=refusing())
    labs = federation(grid)
    for _ in range(64):
        labs.begin()
    assert grid.asked.count(1) == 1
    assert 8 <= grid.asked.count(2) <= 12


def test_a_run_gives_up_on_labs_none_of_which_can_use_its_data(federation):
    with pytest.raises(RunError, match=r"no lab can take part: no file$"):
        federation(Nodes(n1=refusing(), n2=refusing())).gather()


def test_a_node_without_a_lab_is_no_trouble(federation, caplog):
    grid = Nodes(n1=lab("A"), n2=lambda message: RecordDict())
    labs = federation(grid)
    for _ in range(4):
        labs.begin()
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
    labs.begin()
    assert labs.labs["A"].node == 1
    del grid.nodes[1]
    for _ in range(3):
        labs.begin()
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
    assert 2 not in grid.asked[2:]


def test_a_round_waits_for_as_many_labs_as_it_needs(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid, wait_for_labs=2, min_updates=2)
    labs.gather()
    away = grid.nodes.pop(2)
    clock.after[20] = lambda: grid.nodes.update({2: away})
    labs.await_labs()
    assert clock.now == pytest.approx(20)
    assert labs.connected == ["A", "B"]


def test_a_round_waits_no_longer_than_its_timeout(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid, wait_for_labs=2, min_updates=2, round_timeout=60.0)
    labs.gather()
    del grid.nodes[2]
    with pytest.raises(RunError, match="1 of 2 labs are connected, 2 needed; not connected: B"):
        labs.await_labs()
    assert clock.now <= 65


@pytest.mark.parametrize(
    ("min_updates", "asked", "needed"), [(0, 4, 2), (0, 5, 3), (0, 1, 1), (3, 4, 3), (3, 2, 2)]
)
def test_a_round_needs_half_of_those_asked_or_what_is_said(federation, min_updates, asked, needed):
    assert federation(Nodes(), min_updates=min_updates).needed(asked) == needed


@pytest.mark.parametrize(
    ("labs", "fraction", "drawn"), [(10, 0.1, 1), (10, 0.3, 3), (3, 0.1, 1), (5, 0.5, 3), (4, 1, 4)]
)
def test_a_round_draws_the_share_it_says(labs, fraction, drawn):
    names = [f"lab-{i:02d}" for i in range(labs)]
    for round_ in range(5):
        chosen = participants(names, fraction, 0, round_)
        assert len(set(chosen)) == drawn
        assert chosen == sorted(chosen)


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
        (_mean(4, 1.0), "n adds up to 4 of 5 cells"),
        (_mean(5, 1e300), "the embedding's sum is 1e"),
        (_mean(5, 7.0) | {"squares": np.zeros(2)}, "for its squares"),
        (_mean(5, 1.0, dimensions=3), r"\(3,\)"),
        ({"n": np.array([5])}, "do not fit"),
    ],
)
def test_a_lab_whose_sums_cannot_be_is_lost_not_the_run(federation, sums, words):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_answering("B", sums))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    with pytest.raises(LabsLost, match=words) as lost:
        ask(Question("kmeans-mean"))
    assert list(lost.value.failures) == ["B"]
    assert labs.phase(lambda: ask(Question("kmeans-mean")))["n"].tolist() == [5]
    labs.begin()
    assert list(labs.labs) == ["A", "B"]  # it may do better in the next phase


def test_a_node_speaks_for_its_own_labs_only(federation):
    def both(message):
        if message.metadata.message_type == records.DESCRIBE:
            return lab("A")(message)
        sums = records.pack_arrays(_mean(5, 1.0))
        return RecordDict(
            {"sums:A": sums, "sums:B": sums, "error:B": ConfigRecord({"reason": "x"})}
        )

    labs = federation(Nodes(n1=both, n2=_answering("B", _mean(5, 2.0))), wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    assert ask(Question("kmeans-mean"))["sum"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("Traceback\n File\nKeyError: 'x'\n", "KeyError: 'x'"),
        (None, "failed without a reason"),
    ],
)
def test_a_crash_is_the_last_line_of_its_traceback(federation, sent, told):
    grid = Nodes(n1=lab("A"))
    labs = federation(grid)
    labs.gather()
    grid.send_and_receive = lambda messages, timeout: [
        Message(Error(1, sent), reply_to=m) for m in messages
    ]
    assert labs.tell(["A"], records.FINISH, RecordDict()).failures == {"A": told}


def _failing(name, *errors):
    """Answer as a lab that fails in these ways, one after the other, and then does not."""
    left, healthy = list(errors), _answering(name, _mean(5, 1.0))

    def answer(message):
        if message.metadata.message_type == records.DESCRIBE or not left:
            return healthy(message)
        error = left.pop(0)
        return None if error is None else RecordDict({f"error:{name}": pack_error(error)})

    return answer


def _asked_of(grid, node):
    return grid.asked.count(node) - 1  # once for its description


@pytest.mark.parametrize("errors", [[MemoryError()], [MemoryError(), None], [RunError("disk")] * 2])
def test_a_failed_question_is_asked_again_of_the_lab_that_failed_alone(federation, errors):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_failing("B", *errors))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    assert ask(Question("kmeans-mean"))["n"].tolist() == [10]
    assert _asked_of(grid, 1) == 1
    assert _asked_of(grid, 2) == 1 + len(errors)


def test_a_lab_that_fails_three_times_is_left_out_of_that_phase_alone(federation, caplog):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_failing("B", *[MemoryError()] * 3))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    sums = [labs.phase(lambda: ask(Question("kmeans-mean")))["n"][0] for _ in range(2)]
    assert sums == [5, 10]
    assert "going on without lab B: MemoryError" in caplog.text


def test_a_lab_that_comes_within_a_phase_takes_part_in_the_next(federation):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_answering("B", _mean(5, 1.0)))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    there = grid.nodes[2]

    def comes(message):
        grid.nodes |= {2: there, 3: _answering("C", _mean(7, 1.0), cells=7)}

    def work():
        first = ask(Question("kmeans-mean"))["n"][0]
        grid.nodes[2] = comes  # B fails once and is asked again, and C is heard of meanwhile
        return [first, *(ask(Question("kmeans-mean"))["n"][0] for _ in range(2))]

    assert labs.phase(work) == [10, 10, 10]
    assert list(labs.labs) == ["A", "B"]
    assert labs.phase(lambda: ask(Question("kmeans-mean")))["n"] == [17]


def test_a_lab_that_comes_back_with_other_cells_within_a_phase_is_left_out_of_it(federation):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_answering("B", _mean(5, 1.0)))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)

    def started_again(message):
        grid.nodes[3] = _answering("B", _mean(6, 1.0), cells=6)
        del grid.nodes[2]

    def work():
        first = ask(Question("kmeans-mean"))["n"][0]
        if first == 10:
            grid.nodes[2] = started_again
        return ask(Question("kmeans-mean"))["n"][0]

    assert labs.phase(work) == 5
    assert list(labs.labs) == ["A"]
    labs.begin()
    assert {name: about.cells for name, about in labs.labs.items()} == {"A": 5, "B": 6}


def test_a_question_names_the_labs_that_are_to_answer(federation):
    named = []

    def two(message):
        if message.metadata.message_type == records.DESCRIBE:
            about = {"cells": 5, "kind": "counts", "genes": b"a\nb", "siblings": 2}
            return RecordDict({f"about:{name}": ConfigRecord(about) for name in "AB"})
        named.append([name for name in "AB" if records.is_for(message.content, name)])
        wrong = {"error:B": pack_error(DataError("no"))} if "B" in named[-1] else {}
        return RecordDict({"sums:A": records.pack_arrays(_mean(5, 1.0)), **wrong})

    labs = federation(Nodes(n1=two), wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    assert labs.phase(lambda: ask(Question("kmeans-mean")))["n"] == [5]
    assert named == [["A", "B"], ["A"]]


@pytest.mark.parametrize("kind", [DataError, ConfigError])
def test_what_fails_for_good_is_not_asked_again(federation, kind):
    error = kind.without_data("no such thing")
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_failing("B", *[error] * 3))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    with pytest.raises(LabsLost, match=f"lab B: {error}"):
        ask(Question("kmeans-mean"))
    assert _asked_of(grid, 2) == 1


def test_a_phase_needs_half_of_its_labs(federation):
    lost = [DataError("no")] * 9
    grid = Nodes(
        n1=_answering("A", _mean(5, 1.0)),
        **{f"n{i}": _failing(f"L{i}", *lost) for i in (2, 3)},
    )
    labs = federation(grid, wait_for_labs=3)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    with pytest.raises(RunError, match=r"too few labs are left \(1, 2 needed\): lab L2.*lab L3"):
        labs.phase(lambda: ask(Question("kmeans-mean")))


def test_an_honest_lab_is_not_blamed_for_the_sum_with_a_liar(federation):
    """Sums of 1e300 are finite; added or squared they are not."""
    liar = _answering("B", _mean(5, 1e300))
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=liar, n3=_answering("C", _mean(5, 1.0)))
    labs = federation(grid, wait_for_labs=3)
    labs.gather()
    ask = labs.ask("embedding", RecordDict(), nothing)
    assert labs.phase(lambda: ask(Question("kmeans-mean")))["n"].tolist() == [10]
    assert list(labs.labs) == ["A", "C"]


class Busy:
    """A stand-in for the post of a network, some of whose nodes owe a reply."""

    remote = True

    def __init__(self, grid, busy):
        self.grid, self.owing, self.handed = grid, set(busy), []

    def present(self):
        return set(self.grid.get_node_ids())

    def busy(self, node):
        return node in self.owing

    def late(self, message_type, group):
        handed, self.handed = self.handed, []
        return handed

    def deliver(self, messages, timeout):
        self.timeout = timeout
        return self.grid.send_and_receive(messages, timeout=timeout)


def _behind(labs, post):
    labs._post = labs._roster.post = post
    return labs


def test_a_lab_that_is_busy_at_the_end_is_served_when_it_is_free(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"), n3=lab("C"))
    labs = federation(grid, wait_for_labs=3)
    labs.gather()
    post = Busy(grid, {2})
    _behind(labs, post)
    clock.after[40] = post.owing.clear
    found = [(clock.now, late) for late in labs.stragglers(["A"])]
    assert found == [(0, ["C"]), (40, ["B"])]


def test_a_lab_that_stays_busy_is_waited_for_no_longer_than_a_round(federation, clock):
    grid = Nodes(n1=lab("A"), n2=lab("B"))
    labs = federation(grid, wait_for_labs=2, round_timeout=60.0)
    labs.gather()
    _behind(labs, Busy(grid, {2}))
    assert list(labs.stragglers(["A"])) == []
    assert 60 < clock.now <= 70


def test_a_new_node_that_hangs_costs_its_own_short_time_and_its_late_answer_counts(federation):
    grid = Nodes(n1=lab("A"), n2=lambda message: None)
    labs = federation(grid, describe_timeout=7.0)
    post = _behind(labs, Busy(grid, set()))._post
    labs.gather()
    assert list(labs.labs) == ["A"]
    assert post.timeout == 7.0  # not the hour of a round
    request = Message(RecordDict(), 2, records.DESCRIBE)
    post.handed = [Message(lab("B")(request), reply_to=request)]
    labs.begin()
    assert list(labs.labs) == ["A", "B"]


def test_a_lab_that_is_gone_is_waited_for_before_it_is_asked_again(federation, clock):
    grid = Nodes(n1=_answering("A", _mean(5, 1.0)), n2=_answering("B", _mean(5, 1.0)))
    labs = federation(grid, wait_for_labs=2)
    labs.gather()
    _behind(labs, Busy(grid, set()))
    away = grid.nodes.pop(2)
    labs.begin()
    clock.after[75] = lambda: grid.nodes.update({2: away})  # as long as Flower keeps it out
    ask = labs.ask("embedding", RecordDict(), nothing)
    assert ask(Question("kmeans-mean"))["n"].tolist() == [10]
    assert 75 <= clock.now < 80
