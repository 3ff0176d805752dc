"""Every message of whole runs of real labs, in both directions: none holds a cell.

What a lab says when it fails: ``test_lab_errors.py``.

What must not travel is looked for by its values. A vector of fractions (an embedded or prepared
cell, a private tensor) is found where half of its numbers turn up in one message, in any order and
any layout. Small whole numbers turn up anywhere, so a vector of them (counts, codes of labels) is
found where it stands in order, in steps of any length that a matrix of cells may have.
"""

import copy
import json
import pickle
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
)
from flwr.common.serde import recorddict_to_proto

from client_app import app as client
from client_app.state import load_embedding, load_private
from fedsc import tensors
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated.micro import unit
from fedsc.model import load_model
from fedsc.run_log import read_entries
from protocol import records
from simulations.inprocess import InProcessGrid

LABS = {"A": slice(0, 40), "B": slice(40, 96)}
METHODS = {
    "fedsc": {"method": "fedsc", "local_norm": True, "target_sum": 1000.0},
    "fedmoco-v2": {"method": "fedmoco-v2", "queue": 16, "upload": "bfloat16"},
    "fedpca": {"method": "fedpca"},
    "harmony": {"method": "fedpca", "integrate": "harmony"},
}

# Among the slow tests are the queue of MoCo and what runs without training send.
SLOW = ("fedmoco-v2", "fedpca", "harmony")
RUNS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS]


@dataclass(frozen=True)
class Secrets:
    """What must not leave the labs.

    ``vectors`` by what they are, ``names`` of cells, of which none may be told, and ``types``,
    which are told once each; ``steps`` are the lengths of rows and columns of matrices of cells.
    ``shared`` names embedded cells, and directions of cells, that were alone in a group of k-means
    or of the graph: the group's sum, which is told, is that cell (see kmeans.py).
    """

    vectors: dict[str, np.ndarray]
    names: list[str] = ()
    types: list[str] = ()
    steps: frozenset[int] = frozenset({1})
    shared: frozenset[str] = frozenset()

    @cached_property
    def fractions(self):
        """Fractions of all vectors in one array, whose they are, how many each vector has."""
        values, owners, names = [], [], []
        for name, vector in self.vectors.items():
            own = np.unique(vector.astype(np.float32))
            own = own[own != np.round(own)]
            if len(own) >= 5:
                values.append(own[:: max(1, len(own) // 100)])
                owners.append(np.full(len(values[-1]), len(names)))
                names.append(name)
        return np.concatenate(values or [[]]), np.concatenate(owners or [[]]).astype(int), names

    @cached_property
    def whole(self):
        """Vectors of whole numbers by length: random weights, weighted sums, names."""
        rng, by_length = np.random.default_rng(0), {}
        for name, vector in self.vectors.items():
            if (vector == np.round(vector)).all() and np.count_nonzero(vector) >= 10:
                by_length.setdefault(len(vector), {})[name] = vector.astype(np.float64)
        return [
            (weights := rng.normal(size=n), np.array(list(named.values())) @ weights, list(named))
            for n, named in by_length.items()
        ]


@dataclass(frozen=True)
class Run:
    """All messages of a run, in order, and what must not be in them."""

    messages: list
    secrets: Secrets


@pytest.fixture(scope="module")
def runs(tiny_run, tiny_set, change, lead, tmp_path_factory):
    """Lead real labs, each with a file of its own, through a run of each kind of method."""
    cells, done = anndata.read_h5ad(tiny_set), {}

    def make(method):
        root = tmp_path_factory.mktemp(method)
        nodes = []
        for lab, rows in LABS.items():
            cells[rows].copy().write_h5ad(root / f"{lab}.h5ad")
            nodes.append({"lab": lab, "data": str(root / f"{lab}.h5ad"), "state": str(root / lab)})
        messages, private, grids = [], {}, []

        class Watched(InProcessGrid):
            def send_and_receive(self, sent, *, timeout=None):
                sent = copy.deepcopy(list(sent))
                replies = super().send_and_receive(sent, timeout=timeout)
                messages.extend(copy.deepcopy([*sent, *replies]))
                grids.append(self)
                return replies

        def app(message, context):
            reply = client(message, context)
            folder = Path(context.node_config["state"]) / "run"
            for name, array in load_private(folder, 99).items():
                private[f"{name}, {hash(array.tobytes())}"] = array
            return reply

        left = lead(
            change(tiny_run, output=str(root), rounds=2, wait_for_labs=2, **METHODS[method]),
            nodes,
            app=app,
            grid=Watched,
        )
        # Nothing travels past the grid: what was seen is what was counted.
        traffic = grids[0].traffic
        seen = sum(records.content_bytes(m.content) for m in messages)
        assert seen == traffic.to_labs + traffic.from_labs
        # The run's own log has the same figures.
        log = (left.folder / "log.jsonl").read_text().splitlines()
        told = [e.fields for e in read_entries(log) if "to_labs" in e.fields][-1]
        assert told.items() >= vars(traffic).items()
        return Run(messages, secrets_of(root, left, private, messages))

    def run(method):
        if method not in done:
            done[method] = make(method)
        return done[method]

    return run


def secrets_of(root, left, private, messages):
    """List the vectors of every lab: cells as they are, prepared, embedded; genes; labels."""
    model, vectors, barcodes, types, steps = load_model(left.folder), {}, [], set(), {1}
    embedded = {}
    for lab in LABS:
        expression = read(root / f"{lab}.h5ad", ReadAs(label_key="cell_type"))
        counts = expression.matrix.toarray()
        chosen = [list(expression.genes).index(g) for g in model.preprocessing.genes]
        prepared = model.prepare(expression)
        ready = prepared.batch(np.arange(len(counts)))
        embedding = load_embedding(root / lab / "run").x
        kinds = {
            "counts": counts,
            "chosen": counts[:, chosen],
            "logs": prepared.values.toarray(),
            "prepared": ready,
            "embedded": embedding,
            "direction of": unit(embedding),
        }
        for kind, matrix in kinds.items():
            vectors |= {f"{kind} cell {i} of {lab}": row for i, row in enumerate(matrix)}
            vectors |= {f"{kind} column {i} of {lab}": c for i, c in enumerate(matrix.T)}
            steps |= set(matrix.shape)
        ways = ("embedded", "direction of")
        same = np.allclose(embedding, kinds["direction of"])  # rows of length 1
        for kind in ways:
            for i, row in enumerate(kinds[kind].astype(np.float64)):
                told = ways if same else (kind,)
                embedded.setdefault(row.tobytes(), []).extend(
                    f"{way} cell {i} of {lab}" for way in told
                )
        vectors[f"labels of {lab}"] = np.unique(expression.labels, return_inverse=True)[1]
        barcodes += list(expression.cells)
        types |= set(expression.labels)
    vectors |= {name: array.ravel() for name, array in private.items()}
    return Secrets(
        vectors,
        barcodes,
        sorted(types),
        frozenset(steps),
        frozenset(alone(messages, embedded)),
    )


def alone(messages, embedded):
    """List the embedded cells that were told as the sum of a group of one."""
    for message in messages:
        for record in message.content.array_records.values():
            for arrays in tensors.by_owner(records.unpack_arrays(record)).values():
                if {"n", "sum"} <= arrays.keys() and arrays["sum"].shape[:-1] == arrays["n"].shape:
                    for row in arrays["sum"][arrays["n"] == 1]:
                        yield from embedded.get(row.tobytes(), [])


# The search


NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def arrays_in(value):
    """Give all arrays that a value of a record can be read as."""
    if isinstance(value, Array):
        value = value.data if value.stype in ("safetensors", "") else [value.numpy()]
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        try:
            return list(tensors.unpack(value).values())
        except ValueError:
            found = [np.array([float(n) for n in NUMBER.findall(value)])]
            # Bytes of numbers, wherever they begin (in a pickle, say).
            for kind in (np.float32, np.float64, np.int32, np.int64):
                size = np.dtype(kind).itemsize
                for start in range(min(size, len(value))):
                    count = (len(value) - start) // size
                    found.append(np.frombuffer(value, kind, count, start))
            return found
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return value
    if isinstance(value, list) and value and isinstance(value[0], (str, bytes)):
        return [array for one in value for array in arrays_in(one)]
    return [np.atleast_1d(np.asarray(value, dtype=np.float64))]


def find_leaks(message, secrets):
    """Name every secret that a message holds."""
    arrays = [
        array
        for record in message.content.values()
        for value in record.values()
        for array in arrays_in(value)
        if array.dtype.kind in "fiub" and array.size
    ]
    found = set(_fractions(arrays, secrets)) | set(_whole(arrays, secrets))
    raw = recorddict_to_proto(message.content).SerializeToString()
    found |= {f"barcode {name}" for name in secrets.names if name.encode() in raw}
    # Names of types are listed, once; a list of labels names them for every cell.
    found |= {f"labels {name}" for name in secrets.types if raw.count(name.encode()) > 1}
    return found


def _fractions(arrays, secrets):
    values, owners, names = secrets.fractions
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.unique(np.concatenate([a.ravel().astype(np.float32) for a in arrays]))
    met = np.bincount(owners[np.isin(values, numbers)], minlength=len(names))
    return [names[i] for i in np.flatnonzero(2 * met >= np.bincount(owners, minlength=len(names)))]


def _whole(arrays, secrets):
    for array in arrays:
        with np.errstate(invalid="ignore"):
            flat = array.ravel().astype(np.float64)
            if (flat == np.round(flat)).mean() < 0.5:
                continue
        flat = np.where(np.abs(flat) < 1e9, flat, -1.0)
        rows = {int(np.prod(array.shape[i:])) for i in range(1, array.ndim)}
        for step in secrets.steps | rows:
            for weights, sums, names in secrets.whole:
                count = len(flat) - (len(weights) - 1) * step
                if count < 1:
                    continue
                strides = flat.itemsize, step * flat.itemsize
                windows = np.lib.stride_tricks.as_strided(flat, (count, len(weights)), strides)
                there, near = np.sort(windows @ weights), 1e-7 * (1 + np.abs(sums))
                met = np.searchsorted(there, sums - near) < np.searchsorted(there, sums + near)
                yield from (names[i] for i in np.flatnonzero(met))


# The tests


@pytest.mark.parametrize("method", RUNS)
def test_no_message_holds_a_cell_a_label_or_a_private_tensor(runs, method):
    run = runs(method)
    kinds = {(m.metadata.message_type, m.metadata.reply_to_message_id != "") for m in run.messages}
    expected = {"query.describe", "query.ask", "query.embed", "query.finish", "train"}
    if method in ("fedpca", "harmony"):
        expected.remove("train")
    assert {kind for kind, _ in kinds} == expected
    for message in run.messages:
        found = find_leaks(message, run.secrets)
        # The one exception there is, and where: sums over a group of one cell.
        if message.metadata.message_type in ("query.ask", "query.finish"):
            found -= run.secrets.shared
        assert not found, f"{message.metadata.message_type}: {sorted(found)[:5]}"


@pytest.mark.parametrize("method", RUNS)
def test_records_are_the_protocol_s_and_private_tensors_stay(runs, method):
    for message in runs(method).messages:
        names = {name.partition(":")[0] for name in message.content}
        assert names <= {
            *("run", "preprocessing", "question", "question-arrays", "vocabulary", "weights"),
            *("start", "about", "sums", "embedded", "update", "metrics", "clusters", "finished"),
            *("embedding", "markers", "options", "labs"),
        }
        for record in message.content.array_records.values():
            assert list(record) == [records.TENSORS]
            arrays = records.unpack_arrays(record)
            private = ("target.", "key.", "queue", "norm:", "upload-error:")
            assert not [n for n in arrays if n.startswith(private)]


def pick(secrets, what):
    (name, *_) = [n for n in secrets.vectors if n.startswith(what) and n not in secrets.shared]
    return secrets.vectors[name]


def matrix(secrets, kind):
    return np.array([v for n, v in secrets.vectors.items() if re.match(rf"{kind} cell .* of A", n)])


LEAKS = {
    "cell": lambda s: pick(s, "counts cell"),
    "cells": lambda s: matrix(s, "counts"),
    "transposed cells": lambda s: np.ascontiguousarray(matrix(s, "counts").T),
    "gene": lambda s: pick(s, "counts column"),
    "logs of a cell": lambda s: pick(s, "logs cell"),
    "prepared cell": lambda s: pick(s, "prepared cell"),
    "embedded cell": lambda s: pick(s, "embedded cell"),
    "transposed embedding": lambda s: np.ascontiguousarray(matrix(s, "embedded").T),
    "embedding in another order": lambda s: matrix(s, "embedded")[::-1, ::-1],
    "labels": lambda s: pick(s, "labels"),
    "target network": lambda s: pick(s, "target.encoder.0.weight"),
}


WAYS = {
    "beside others": None,
    "array": lambda a: ArrayRecord({"x": Array(np.ascontiguousarray(a))}),
    "bytes": lambda a: ConfigRecord({"x": b"head" + np.ascontiguousarray(a).tobytes()}),
    "flat float64": lambda a: records.pack_arrays({"x": a.astype(np.float64).ravel()}),
    "numbers": lambda a: MetricRecord({"x": [float(x) for x in a.ravel()]}),
    "text": lambda a: ConfigRecord({"x": json.dumps(a.tolist())}),
    "pickle": lambda a: ConfigRecord({"x": pickle.dumps(np.ascontiguousarray(a))}),
}


def plant(message, way, array):
    """Put an array into a copy of a message."""
    planted = copy.deepcopy(message)
    if way != "beside others":
        planted.content["more"] = WAYS[way](array)
        return planted
    name, record = next(iter(planted.content.array_records.items()), ("run", None))
    arrays = {} if record is None else records.unpack_arrays(record)
    planted.content[name] = records.pack_arrays(arrays | {"a.weight": np.ascontiguousarray(array)})
    return planted


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_found_whatever_way_it_takes(runs, what):
    run = runs("fedsc")
    for i, way in enumerate(WAYS):
        message = run.messages[(7 * i) % len(run.messages)]
        planted = plant(message, way, LEAKS[what](run.secrets))
        assert find_leaks(planted, run.secrets) - run.secrets.shared, way


def test_a_leak_is_found_in_every_kind_of_message(runs):
    run = runs("fedsc")
    last = {(m.metadata.message_type, m.metadata.src_node_id): m for m in run.messages}
    assert len(last) == 5 * 3  # the server and two nodes
    for kind, message in last.items():
        for what in ("transposed cells", "embedded cell"):
            planted = plant(message, "beside others", LEAKS[what](run.secrets))
            assert find_leaks(planted, run.secrets) - run.secrets.shared, kind


@pytest.mark.parametrize(
    "text", [{"x": "cell17"}, {"x": b"cell40\ncell41"}, {"x": "type0 type1 type0"}]
)
def test_barcodes_and_lists_of_labels_are_found(runs, text):
    run = runs("fedsc")
    planted = copy.deepcopy(run.messages[0])
    planted.content["note"] = ConfigRecord(text)
    assert find_leaks(planted, run.secrets)


def test_a_lab_that_sends_its_cells_fails_the_test_above(
    tiny_run, tiny_set, lead, change, tmp_path
):
    """The whole way once: a client with a leak in it, in a run, seen on the wire."""
    secret = anndata.read_h5ad(tiny_set).X.toarray()

    def leaking(message, context):
        reply = client(message, context)
        if message.metadata.message_type == "query.finish":
            for name in list(reply.content):
                reply.content[name] = ConfigRecord({"copy": json.dumps(secret[:3].T.tolist())})
        return reply

    seen = []

    class Watched(InProcessGrid):
        def send_and_receive(self, sent, *, timeout=None):
            replies = super().send_and_receive(sent, timeout=timeout)
            seen.extend(replies)
            return replies

    node = {"lab": "A", "data": str(tiny_set), "state": str(tmp_path / "A")}
    config = change(tiny_run, output=str(tmp_path), rounds=1, wait_for_labs=1)
    lead(config, [node], app=leaking, grid=Watched)
    vectors = {f"counts cell {i} of A": row for i, row in enumerate(secret)}
    secrets = Secrets(vectors, steps=frozenset({1, 3}))
    found = {name for message in seen for name in find_leaks(message, secrets)}
    assert sorted(found) == [f"counts cell {i} of A" for i in range(3)]
