"""A lab that lies in any answer: it is named and left out, or what it says is possible.

The lies have the names, shapes and types of honest answers; their values are drawn. Three honest
labs and the liar answer everything a server asks while it prepares, clusters and describes cells.
"""

import dataclasses

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsc.data.aligned import align
from fedsc.data.preprocess import transform
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.errors import FedscError
from fedsc.federated import harmony_lab, mixing
from fedsc.federated.annotation import learn_types, types_question
from fedsc.federated.answers import answer, no_cells, no_clusters, no_embedding, no_expression
from fedsc.federated.averaging import average
from fedsc.federated.clustered import Clustered
from fedsc.federated.correction import BatchedCells
from fedsc.federated.graph import agreement, learn_graph
from fedsc.federated.harmony import learn_harmony, learn_start
from fedsc.federated.kmeans import assign, learn_kmeans
from fedsc.federated.markers import learn_markers, markers_question
from fedsc.federated.metrics import Embedded, learn_scores
from fedsc.federated.mixing import learn_mixing
from fedsc.federated.pca import learn_pca
from fedsc.federated.preprocessing import fit_preprocessing, learn_preprocessing
from fedsc.federated.quality import learn_kept, learn_thresholds
from fedsc.federated.query import together
from fedsc.options import DataOptions, FederationOptions
from protocol import ask as asking
from protocol import records
from protocol.checks import BadReply
from protocol.train import read_update
from server_app.federation import Federation
from server_app.integration import _IntegrationAnswers

LIAR, HONEST = "M", ["A", "B", "C"]
DIMENSIONS = 4
OPTIONS = DataOptions(n_genes=30, min_shared_genes=10)


class Short:
    """What is too long to print."""

    def __repr__(self):
        return type(self).__name__


class Pool(Short):
    """What four labs hold, and what a server does with it."""

    def __init__(self, path):
        whole = read(path, ReadAs(label_key="cell_type"))
        self.types = sorted(set(whole.labels))
        self.vocabulary = whole.genes
        self.preprocessing = fit_preprocessing([whole], OPTIONS)
        rng = np.random.default_rng(0)
        kinds = np.array([self.types.index(label) for label in whole.labels])
        x = 0.3 * rng.normal(size=(len(kinds), DIMENSIONS)) + np.eye(4, DIMENSIONS)[kinds]
        self.labs = {}
        for i, lab in enumerate([*HONEST, LIAR]):
            rows = np.arange(i, len(kinds), 4)
            part, own = whole.subset(rows), x[rows].astype(np.float32)
            expression = align(part, self.vocabulary)
            clusters = assign(np.eye(4, DIMENSIONS), own)
            self.labs[lab] = {
                asking.EXPRESSION: expression,
                asking.CELLS: transform(part, self.preprocessing),
                asking.EMBEDDING: Embedded(own, part.labels),
                asking.CLUSTERS: Clustered(expression, clusters, part.labels),
                asking.INTEGRATION: BatchedCells(own, np.zeros(len(rows), dtype=np.int64)),
            }
        self.n_cells = len(kinds)

    def nothing(self, subject):
        """Give what a lab without cells answers."""
        if subject == asking.INTEGRATION:
            return _IntegrationAnswers(DIMENSIONS)
        none = {
            asking.EXPRESSION: lambda: no_expression(self.vocabulary, "counts"),
            asking.CELLS: lambda: no_cells(self.preprocessing),
            asking.EMBEDDING: lambda: no_embedding(DIMENSIONS),
            asking.CLUSTERS: lambda: no_clusters(self.vocabulary, "counts"),
        }[subject]()
        return lambda question: answer(none, question)

    def statistics(self, ask):
        return learn_preprocessing(ask(asking.EXPRESSION), self.vocabulary, "counts", OPTIONS)

    def quality(self, ask):
        expression = ask(asking.EXPRESSION)
        limits = learn_thresholds(expression, self.vocabulary, min_genes="mad", min_counts="mad")
        return limits, learn_kept(expression, self.vocabulary, limits)

    def components(self, ask):
        return learn_pca(ask(asking.CELLS), 5)

    def kmeans(self, ask):
        embedding = ask(asking.EMBEDDING)
        found = learn_kmeans(embedding, 3, 0)
        return found, learn_scores(embedding, found, self.types)

    def graph(self, ask):
        embedding = ask(asking.EMBEDDING)
        found = learn_graph(embedding, (0.5, 1.0), 0, vocabulary=self.types)
        return found, agreement(found)

    def clusters(self, ask):
        target_sum = self.preprocessing.target_sum
        clustered = together(
            ask(asking.CLUSTERS), markers_question(4, target_sum), types_question(self.types, 4)
        )
        markers = learn_markers(clustered, 4, target_sum)
        return markers, learn_types(clustered, self.types, 4)

    def harmony(self, ask):
        integration = ask(asking.INTEGRATION)
        start = learn_start(integration, self.n_cells, 0)
        before = learn_mixing(integration, start)
        found = learn_harmony(integration, self.n_cells, start)
        moved = ask(asking.INTEGRATION, found.name)
        return before, found, learn_mixing(moved, found.centres)


PHASES = ["statistics", "quality", "components", "kmeans", "graph", "clusters", "harmony"]


class Nodes:
    """A grid with a node for each lab; the liar's answer to one question goes through a lie."""

    def __init__(self, pool, lie=None):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.pool, self.lie = pool, lie
        self.nodes = dict(enumerate(pool.labs, start=1))
        self.states = {}
        self.asked = 0  # questions put to the liar

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout):
        return [
            self._reply(message, self.nodes[message.metadata.dst_node_id]) for message in messages
        ]

    def _reply(self, message, lab):
        held = self.pool.labs[lab]
        if message.metadata.message_type == records.DESCRIBE:
            about = {
                "cells": len(held[asking.EMBEDDING].x),
                "kind": "counts",
                "genes": records.pack_names(self.pool.vocabulary),
                "types": records.pack_names(self.pool.types),
                "siblings": 0,
            }
            return Message(RecordDict({f"about:{lab}": ConfigRecord(about)}), reply_to=message)
        question, subject = asking.unpack_question(message.content)
        sums = self._sums(lab, held[subject], question, asking.integration_of(message.content))
        if lab == LIAR and self.lie:
            sums = self.lie(self.asked, question.name, sums)
            self.asked += 1
        told = records.pack_arrays(sums)
        return Message(RecordDict({f"sums:{lab}": told}), reply_to=message)

    def _sums(self, lab, held, question, integration):
        if isinstance(held, BatchedCells):
            if question.name == mixing.MIXING:
                corrected = self.states[lab].corrected if integration else None
                return mixing.sum_mixing(held, corrected, question)
            sums, self.states[lab] = harmony_lab.answer(held, self.states.get(lab), question)
            return sums
        return answer(held, question)


class Hurry:
    """A clock for what needs no waiting."""

    def monotonic(self):
        return 0.0

    def sleep(self, seconds):
        raise AssertionError("nothing here is worth waiting for")


def lead(pool, phase, lie=None, without=()):
    """Go through a phase with a liar; give its result and the labs that are left in it."""
    federation = Federation(
        Nodes(pool, lie),
        FederationOptions(wait_for_labs=4),
        {"name": "run", "folder": "/run"},
        1,
        Hurry(),
    )
    federation.gather()

    def ask(subject, integration=""):
        records = asking.about_embedding(integration)
        return federation.ask(subject, records, pool.nothing(subject), largest=12.0)

    def work():
        federation._left_out.update(dict.fromkeys(without, "not wanted"))
        return getattr(pool, phase)(ask)

    return federation.phase(work), list(federation.labs)


class Honest(Short, dict):
    """Of every phase, what the liar is asked and the result without it."""


@pytest.fixture(scope="module")
def pool(tiny_set):
    return Pool(tiny_set)


@pytest.fixture(scope="module")
def honest(pool):
    """Go through every phase with the liar's honest answers, and without it."""

    found = Honest()
    for phase in PHASES:
        asked = []

        def hear(i, name, sums, asked=asked):
            asked.append((name, {n: a.dtype.kind for n, a in sums.items() if a.size}))
            return sums

        with_all, labs = lead(pool, phase, hear)
        assert labs == [*HONEST, LIAR]
        alone, _ = lead(pool, phase, without=[LIAR])
        assert not same(with_all, alone)  # or nothing below could tell
        found[phase] = asked, alone
    return found


def same(one, other):
    """Say whether two results are equal to the last bit."""
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one == other or (one != one and other != other)


def finite(found):
    """Say whether a result has no infinity in it; NaN stands for what cannot be told."""
    if dataclasses.is_dataclass(found):
        return finite(vars(found))
    if isinstance(found, dict):
        return all(map(finite, found.values()))
    if isinstance(found, list | tuple):
        return all(map(finite, found))
    if isinstance(found, np.ndarray):
        return found.dtype.kind != "f" or not np.isinf(found).any()
    return not isinstance(found, float) or abs(found) != np.inf


def one_place(at, kind, value):
    """Make a lie: from question ``at`` on, a value in one place of an answer."""

    def lie(i, name, sums):
        arrays = sorted(n for n, a in sums.items() if a.size and a.dtype.kind == kind)
        if i < at or not arrays:
            return sums
        array = sums[arrays[at % len(arrays)]].copy()
        limits = np.iinfo(array.dtype) if kind == "i" else None
        array.reshape(-1)[at % array.size] = (
            min(max(value, limits.min), limits.max) if limits else value
        )
        return {**sums, arrays[at % len(arrays)]: array}

    return lie


ABSURD = st.one_of(
    st.tuples(st.just("f"), st.sampled_from([np.nan, np.inf, -np.inf, 1e25, -1e100, 1e300])),
    st.tuples(st.just("i"), st.sampled_from([-1, -(2**31), 97, 10**9, 2**62])),
)


@settings(max_examples=12)
@given(phase=st.sampled_from(PHASES), at=st.integers(0, 60), lie=ABSURD)
def test_an_absurd_answer_costs_its_lab_the_phase_and_nothing_else(pool, honest, phase, at, lie):
    asked, alone = honest[phase]
    kind, value = lie
    places = [i for i, (_, kinds) in enumerate(asked) if kind in kinds.values()]
    assume(places)  # some phases are all counts
    at = places[at % len(places)]
    found, left = lead(pool, phase, one_place(at, kind, value))
    assert left == HONEST
    assert same(found, alone)


def changed(at, how, seed):
    """Make a lie: one answer changed as a whole, in its types, to what may be possible."""
    rng = np.random.default_rng(seed)

    def lie(i, name, sums):
        if i != at:
            return sums
        chosen = sorted(n for n, a in sums.items() if a.size)
        if not chosen:
            return sums
        array = sums[chosen[seed % len(chosen)]]
        return {**sums, chosen[seed % len(chosen)]: how(array, rng).astype(array.dtype)}

    return lie


HOW = {
    "nothing": lambda a, rng: np.zeros_like(a),
    "all the same": lambda a, rng: np.full_like(a, a.reshape(-1)[0]),
    "shuffled": lambda a, rng: rng.permutation(a.reshape(-1)).reshape(a.shape),
    "turned round": lambda a, rng: a.reshape(-1)[::-1].reshape(a.shape),
    "a bit less": lambda a, rng: a * 0.9,
    "a thousandth": lambda a, rng: a / 1000,
    "ten times": lambda a, rng: np.clip(a * 10.0, -1e9, 1e9),
    "negative": lambda a, rng: -a,
    "any small numbers": lambda a, rng: rng.uniform(-25, 25, a.shape),
    "any counts": lambda a, rng: rng.integers(0, 25, a.shape),
    "tiny": lambda a, rng: np.full(a.shape, 5e-324),
    "one more": lambda a, rng: a + (np.arange(a.size) == 0).reshape(a.shape),
}


@settings(max_examples=16)
@given(
    phase=st.sampled_from(PHASES),
    at=st.integers(0, 60),
    how=st.sampled_from(sorted(HOW)),
    seed=st.integers(0, 2**20),
)
def test_a_lie_within_the_types_is_caught_or_possible_and_never_another_lab_s_fault(
    pool, honest, phase, at, how, seed
):
    asked, alone = honest[phase]
    try:
        found, left = lead(pool, phase, changed(at % len(asked), HOW[how], seed))
    except FedscError as error:
        pytest.fail(f"one liar of four labs ended the run: {error}")
    if left == HONEST:
        assert same(found, alone)
    else:
        assert left == [*HONEST, LIAR]
        assert finite(found)


@pytest.mark.long
@pytest.mark.slow
@settings(max_examples=1000)
@given(data=st.data())
def test_a_thousand_lies_of_either_kind(pool, honest, data):
    phase, at = data.draw(st.sampled_from(PHASES)), data.draw(st.integers(0, 60))
    how, seed = data.draw(st.sampled_from(sorted(HOW))), data.draw(st.integers(0, 2**20))
    asked, alone = honest[phase]
    kind, value = data.draw(ABSURD)
    places = [i for i, (_, kinds) in enumerate(asked) if kind in kinds.values()]
    lie = changed(at % len(asked), HOW[how], seed)
    absurd = data.draw(st.booleans()) and places
    if absurd:
        lie = one_place(places[at % len(places)], kind, value)
    found, left = lead(pool, phase, lie)
    assert left == HONEST or (not absurd and finite(found))
    assert same(found, alone) or left != HONEST


NUMBERS = st.one_of(st.integers(-(2**62), 2**62), st.sampled_from([0, 1, 5, 97, 10**7, 10**8]))
DESCRIPTIONS = st.fixed_dictionaries(
    {
        "cells": NUMBERS,
        "kind": st.sampled_from(["counts", "counts ", "", "scaled"]),
        "genes": st.one_of(st.binary(max_size=60), st.just(b"TP0\nTP1")),
        "types": st.one_of(st.binary(max_size=60), st.just(b"type0")),
        "siblings": NUMBERS,
        "signature": st.binary(max_size=200),
    }
)


@settings(max_examples=60)
@given(about=DESCRIPTIONS, name=st.one_of(st.sampled_from(["M", "A", "B"]), st.text(max_size=80)))
def test_an_absurd_description_keeps_no_honest_lab_from_the_run(pool, about, name):
    grid = Nodes(pool)
    said = grid._reply

    def reply(message, lab):
        if lab != LIAR:
            return said(message, lab)
        return Message(RecordDict({f"about:{name}": ConfigRecord(about)}), reply_to=message)

    grid._reply = reply
    options = FederationOptions(wait_for_labs=3)
    federation = Federation(grid, options, {"name": "run", "folder": "/run"}, 5, Hurry())
    federation.gather()
    federation.begin()
    assert {lab: federation.labs[lab].node for lab in HONEST} == {"A": 1, "B": 2, "C": 3}
    for lab in set(federation.labs) - set(HONEST):
        assert lab == name
        told = federation.labs[lab]
        assert 5 <= told.cells <= options.max_cells
        assert not told.simulated
        assert len(told.genes) > 0


START = {
    "encoder.0.weight": np.full((2, 2), 0.5, dtype=np.float32),
    "encoder.1.running_mean": np.zeros(2, dtype=np.float32),
    "encoder.1.running_var": np.ones(2, dtype=np.float32),
}
METRICS = {"cells": 24, "loss": 1.0, "embedding-std": 0.1, "seconds": 1.0}


@settings(max_examples=100)
@given(
    name=st.sampled_from(sorted(START)),
    place=st.integers(0, 3),
    value=st.floats(width=32),
    metric=st.sampled_from(sorted(METRICS)),
    number=st.one_of(st.just(None), st.floats(), NUMBERS),
)
def test_an_absurd_update_is_refused_or_an_average_with_it_stays_finite(
    name, place, value, metric, number
):
    update = {n: array.copy() for n, array in START.items()}
    update[name].reshape(-1)[place % update[name].size] = value
    metrics = dict(METRICS)
    if number is not None:
        metrics[metric] = type(METRICS[metric])(number) if np.isfinite(number) else number
    content = RecordDict(
        {"update:M": records.pack_arrays(update), "metrics:M": MetricRecord(metrics)}
    )
    try:
        read, told, _ = read_update(content, "M", START, 24)
    except BadReply:
        return
    averaged = average([read] * 1000, [10**7] * 1000, "mean", 0.1)
    assert all(np.isfinite(np.square(array)).all() for array in averaged.values())
    assert (averaged["encoder.1.running_var"] >= 0).all()
    assert np.isfinite(np.square(told["loss"] * 1000))
    assert told["cells"] == 24
