import copy
import pickle

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedsc.data.preprocess import Preprocessing
from fedsc.federated.query import Question
from protocol import records
from protocol.ask import pack_question, unpack_question


def test_arrays_travel_as_one():
    arrays = {f"layer.{i}": np.full((i, 2), i, dtype=np.float32) for i in range(18)}
    record = records.pack_arrays(arrays)
    assert len(record) == 1
    again = records.unpack_arrays(ArrayRecord.inflate(record.deflate(), record.children))
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("name", "apart"), [("sums:A", ("sums", "A")), ("error", ("error", "")), ("a:b:", ("a", "b:"))]
)
def test_names_of_records_are_taken_apart_at_the_first_colon(name, apart):
    assert records.what_and_lab(name) == apart


def test_what_is_no_packed_record_is_a_key_or_value_error():
    with pytest.raises(KeyError):
        records.unpack_arrays(ArrayRecord([np.ones(2)]))
    record = records.pack_arrays({"a": np.ones(2)})
    record[records.TENSORS].data = b"x"
    with pytest.raises(ValueError, match="header"):
        records.unpack_arrays(record)


WAYS = {
    "in one process": copy.deepcopy,
    "to another process": lambda content: pickle.loads(pickle.dumps(content)),
    "as Flower's objects": lambda content: inflate_object_from_contents(
        content.object_id,
        {name: one.deflate() for name, one in get_all_nested_objects(content).items()},
    ),
    "in one piece": lambda content: recorddict_from_proto(recorddict_to_proto(content)),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_arrive_whatever_way_they_take(way, monkeypatch):
    packed = []
    pack = records.tensors.pack
    monkeypatch.setattr(records.tensors, "pack", lambda *a: packed.append(a) or pack(*a))
    weights = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), dtype=np.float32).T}
    sent = RecordDict({"start:A": records.pack_weights(weights)})
    size = records.bytes_of(sent["start:A"][records.TENSORS])
    assert not packed
    record = WAYS[way](sent)["start:A"]
    got = records.unpack_arrays(record)
    assert len(packed) == (way != "in one process")  # once, and only on the way out
    assert got.keys() == weights.keys()
    assert all(np.array_equal(got[name], array) for name, array in weights.items())
    assert size == records.bytes_of(record[records.TENSORS]) == len(pack(weights))


def test_weights_whose_bytes_were_changed_are_those_of_the_bytes():
    record = records.pack_weights({"a": np.ones(2, dtype=np.float32)})
    other = records.pack_weights({"a": np.zeros(2, dtype=np.float32)})[records.TENSORS].data
    record[records.TENSORS].data = other
    for changed in (record, copy.deepcopy(record)):
        assert not records.unpack_arrays(changed)["a"].any()


@pytest.mark.parametrize("names", [[], ["a"], ["γ", "b c", "TP53"]])
def test_names_there_and_back(names):
    assert records.unpack_names(records.pack_names(names)).tolist() == names


def test_preprocessing_is_one_record_of_the_same_bits():
    sent = Preprocessing(
        vocabulary=("a", "b", "c"),
        genes=("c", "a"),
        mean=np.array([1 / 3, 1e-300]),
        std=np.array([0.1, 7.0]),
        target_sum=1234.5,
        max_value=10.0,
    )
    record = records.pack_preprocessing(sent)
    assert list(record) == ["preprocessing"]
    got = records.unpack_preprocessing(record)
    assert (got.vocabulary, got.genes) == (sent.vocabulary, sent.genes)
    assert (got.target_sum, got.max_value) == (sent.target_sum, sent.max_value)
    assert got.mean.tobytes() == sent.mean.tobytes()
    assert got.std.tobytes() == sent.std.tobytes()


def test_a_value_of_a_message_has_the_type_it_should_have():
    content = RecordDict({"run": ConfigRecord({"round": 3, "unit": True})})
    assert records.value_in(content, "run", "round", int) == 3
    with pytest.raises(TypeError, match="run: unit is of type bool, should be of type str"):
        records.value_in(content, "run", "unit", str)
    with pytest.raises(KeyError, match="rounds"):
        records.value_in(content, "run", "rounds", int)
    with pytest.raises(TypeError, match="not in a ConfigRecord"):
        records.unpack_arrays(content["run"])


def test_a_question_and_its_subject():
    asked = Question("kmeans-step", {"centres": np.arange(6.0).reshape(3, 2).T})
    question, subject = unpack_question(pack_question(asked, "embedding"))
    assert (question.name, subject) == ("kmeans-step", "embedding")
    np.testing.assert_array_equal(question.arrays["centres"], asked.arrays["centres"])
    empty, _ = unpack_question(pack_question(Question("length"), "cells"))
    assert empty.arrays == {}


def test_labs_are_found_by_the_kind_of_record():
    content = RecordDict()
    for lab in ("B", "A"):
        content[records.key("start", lab)] = records.pack_arrays({"w": np.ones(1)})
    content["run"] = records.pack_arrays({})
    assert records.labs_in(content, "start") == ["A", "B"]
