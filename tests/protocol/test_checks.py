"""Whatever a lab sends, the server gets what it expects or a BadReply in words."""

import json
import pickle
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsc import tensors
from fedsc.federated.limits import distance
from protocol import records
from protocol.ask import read_sums
from protocol.checks import BadReply, last_line, reason_of
from protocol.describe import read_about
from protocol.embed import pack_embedded, read_embedded
from protocol.finish import pack_finished, read_finished
from protocol.train import read_update

GOOD = {"cells": 5, "kind": "counts", "genes": b"a\nb", "types": b"x\ny", "siblings": 0}


def _about(**changes):
    return ConfigRecord({**GOOD, **changes})


def test_a_description_is_taken():
    about = read_about("lab-1", 7, _about())
    assert (about.node, about.cells, about.kind, about.types) == (7, 5, "counts", ("x", "y"))
    assert about.genes.tolist() == ["a", "b"]
    assert not about.simulated
    odd = "NK\u00a0cell, γδ"  # a no-break space, as spreadsheets write it
    assert read_about("A", 7, _about(types=odd.encode())).types == (odd,)
    assert (
        read_about("A", 7, ConfigRecord({k: v for k, v in GOOD.items() if k != "types"})).types
        == ()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cells": 0}, "cells"),
        ({"cells": -3}, "cells"),
        ({"cells": 10**15}, "cells"),
        ({"cells": 2.5}, "cells"),
        ({"cells": True}, "cells"),
        ({"cells": "many"}, "cells"),
        ({"kind": "scaled"}, "kind"),
        ({"genes": "a\nb"}, "genes"),
        ({"genes": b""}, "genes"),
        ({"genes": b"a\xff\n"}, "no text"),
        ({"genes": b"a\na"}, "repeat"),
        ({"genes": b"a\n\nb"}, "empty"),
        ({"genes": b"a" * 201}, "200 letters"),
        ({"types": b"t" * 5_000_000}, "types"),
        ({"genes": b"a\nTP5\x00y"}, r"the genes of lab A: .* control character '\\x00'"),
        ({"types": b"T\r"}, r"cell types of lab A: .* control character '\\r'"),
        ({"types": "a\u2028b".encode()}, r"'\\u2028'"),
        ({"genes": "a\u200bb".encode()}, r"'\\u200b'"),
        ({"siblings": 10**6}, "siblings"),
    ],
)
def test_a_description_that_is_none_is_refused(changes, words):
    with pytest.raises(BadReply, match=words) as caught:
        read_about("A", 7, _about(**changes))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["", "a b", "../a", "x" * 101, "x" * 10**6, "a\nb"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BadReply, match="calls itself") as caught:
        read_about(name, 7, _about())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("record", [None, MetricRecord({"cells": 1}), ArrayRecord(), {}])
def test_a_record_of_another_type_is_refused(record):
    with pytest.raises(BadReply):
        read_about("A", 7, record)
    with pytest.raises(BadReply):
        read_sums(record, {"n": np.zeros(1)}, 5)
    with pytest.raises(BadReply):
        read_update(RecordDict({"update:A": record} if record else {}), "A", {"w": np.zeros(1)}, 4)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "the embedding is missing"),
        (ConfigRecord({"cells": 5}), "the embedding is missing"),
        (MetricRecord({}), "cells"),
        (MetricRecord({"cells": 5.0, "blank": 0}), "cells"),
        (MetricRecord({"cells": 5}), "blank"),
        (MetricRecord({"cells": 5, "blank": -1}), "blank"),
        (MetricRecord({"cells": 5, "blank": 6}), "6 of 5 cells have none of the model's genes"),
        (MetricRecord({"cells": 4, "blank": 0}), "embedded 4 cells, described itself with 5"),
    ],
)
def test_an_embedding_that_is_none_is_refused(record, words):
    assert read_embedded(pack_embedded("A", 5, 2), "A", 5) == 2
    with pytest.raises(BadReply, match=words):
        read_embedded(RecordDict({} if record is None else {"embedded:A": record}), "A", 5)


@pytest.mark.parametrize("copy", [None, "", 3, b"cells.h5ad", "a\nb", "x" * 256])
def test_a_copy_without_a_name_is_refused(copy):
    assert read_finished(pack_finished("A", "cells.fedsc.h5ad"), "A") == "cells.fedsc.h5ad"
    told = {} if copy is None else {"finished:A": ConfigRecord({"copy": copy})}
    with pytest.raises(BadReply, match="does not name the copy"):
        read_finished(RecordDict(told), "A")


EXPECTED = {"n": np.zeros(2, dtype=np.int64), "sum": np.zeros((2, 3))}


def _sums(**changes):
    sums = {"n": np.array([1, 2]), "sum": np.ones((2, 3))}
    return records.pack_arrays(sums | changes)


def test_sums_are_taken():
    sums = read_sums(_sums(), EXPECTED, 2)
    assert sums["n"].tolist() == [1, 2]
    assert sums["sum"].dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": np.array([1, 3])}, "counts 1 to 3 of 2 cells"),
        ({"n": np.array([-1, 2])}, "counts -1"),
        ({"n": np.array([1, 2], dtype=np.int32)}, "int32"),
        ({"sum": np.full((2, 3), np.nan)}, "NaN"),
        ({"sum": np.full((2, 3), np.inf)}, "infinity"),
        ({"sum": np.ones((3, 2))}, r"\(3, 2\)"),
        ({"more": np.ones(1)}, "more"),
        ({"n" * 300: np.ones(1)}, "n" * 60 + "'"),
    ],
)
def test_sums_that_are_none_are_refused(changes, words):
    with pytest.raises(BadReply, match=words):
        read_sums(_sums(**changes), EXPECTED, 2)


def _record(data, shape=None, dtype="uint8", stype="safetensors"):
    return ArrayRecord({records.TENSORS: Array(dtype, shape or (len(data),), stype, data)})


def _safetensors(header, data=b""):
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def _described(dtype="F64", shape=(2, 3), offsets=(0, 48)):
    n = {"dtype": "I64", "shape": [2], "data_offsets": [48, 64]}
    sums = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
    return _safetensors({"n": n, "sum": sums}, bytes(64))


def test_the_layout_the_lies_below_vary_is_the_true_one():
    assert read_sums(_record(_described()), EXPECTED, 5)["sum"].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be decoded"),
        (b"rubbish", "cannot be decoded"),
        (pickle.dumps({"n": np.zeros(2)}), "cannot be decoded"),
        (_described()[:-8], "cannot be decoded"),
        (_described() + b"more", "cannot be decoded"),
        (b"\xff" * 7 + b"\x00" + bytes(100), "cannot be decoded"),  # a header of petabytes
        (_described(shape=(2**40, 2**40)), "cannot be decoded"),
        (_described(shape=(999999999999, 3)), "cannot be decoded"),
        (_described(offsets=(0, 40)), "cannot be decoded"),
        (_described(offsets=(16, 64)), "cannot be decoded"),  # two arrays in the same bytes
        (_described(dtype="BF16", shape=(4, 6)), "cannot be decoded: tensors of type BF16"),
        (_described(dtype="F32", shape=(4, 3)), r"float32\(4, 3\), should be float64\(2, 3\)"),
        (_described(dtype="I64"), r"int64\(2, 3\), should be float64"),
    ],
)
def test_arrays_whose_headers_lie_are_refused(data, words):
    with pytest.raises(BadReply, match=words):
        read_sums(_record(data), EXPECTED, 5)


def test_what_flower_says_of_the_bytes_is_not_believed():
    record = _record(_described(), shape=(10**9, 10**9), dtype="float128", stype="pickle")
    assert read_sums(record, EXPECTED, 5)["sum"].shape == (2, 3)


def test_an_array_beside_the_one_is_refused():
    record = _record(_described())
    record["more"] = Array(np.ones(1))
    with pytest.raises(BadReply, match="no arrays where"):
        read_sums(record, EXPECTED, 5)


def test_a_reply_of_100_mb_is_refused_by_its_size_and_never_decoded(monkeypatch):
    monkeypatch.setattr(tensors, "unpack", lambda data: pytest.fail("it was decoded"))
    with pytest.raises(BadReply, match=r"take 104857600 bytes, should be at most \d{4}$"):
        read_sums(_record(bytes(100 * 2**20)), EXPECTED, 5)


WEIGHTS = {"w": np.zeros((2, 2), dtype=np.float32)}
METRICS = {"cells": 4, "loss": 1.5, "embedding-std": 0.5, "seconds": 2}


def _update(metrics=None, **changes):
    arrays = records.pack_arrays({"w": np.ones((2, 2), dtype=np.float32)} | changes)
    return RecordDict({"update:A": arrays, "metrics:A": MetricRecord(metrics or METRICS)})


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (_update(w=np.full((2, 2), 3e38, dtype=np.float32)), "weights moved by"),
        (_update({**METRICS, "cells": 5}), "trained on 5 cells, described itself with 4"),
        (_update({**METRICS, "loss": 1.7e308}), "metrics"),
        (_update({**METRICS, "embedding-std": -1.0}), "metrics"),
        (_update({**METRICS, "seconds": 1e300}), "metrics"),
    ],
    ids=["huge", "more-cells", "loss", "spread", "seconds"],
)
def test_an_update_no_training_makes_is_refused(update, words):
    with pytest.raises(BadReply, match=words):
        read_update(update, "A", WEIGHTS, 4)


def test_an_update_is_taken():
    update, metrics, moved = read_update(_update(), "A", WEIGHTS, 4)
    assert update["w"].dtype == np.float32
    assert moved == distance(WEIGHTS, update)
    assert metrics == {"cells": 4, "loss": 1.5, "embedding_std": 0.5, "seconds": 2.0}


def test_an_update_in_half_the_bytes_is_what_it_stands_for():
    for kind, dtype, one in (("float16", np.float16, 1), ("bfloat16", np.uint16, 0x3F80)):
        update, *_ = read_update(_update(w=np.full((2, 2), one, dtype)), "A", WEIGHTS, 4, kind)
        np.testing.assert_array_equal(update["w"], WEIGHTS["w"] + 1)
        assert update["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "sent", "words"),
    [
        ("float16", np.ones((2, 2), np.float32), "w is float32"),
        ("float32", np.ones((2, 2), np.float16), "w is float16"),
        ("bfloat16", np.ones((2, 2), np.float16), "w is float16"),
        ("bfloat16", np.ones((4,), np.uint16), "w is uint16"),
        ("bfloat16", np.ones((2, 2), np.int16), "w is int16"),
        ("float16", np.full((2, 2), np.inf, np.float16), "NaN or infinity"),
        ("bfloat16", np.full((2, 2), 0x7F80, np.uint16), "NaN or infinity"),
        ("bfloat16", np.full((2, 2), 0xFFC0, np.uint16), "NaN or infinity"),
        ("bfloat16", np.full((2, 2), 0x7F7F, np.uint16), "weights moved by"),
        ("float16", np.full((2, 2), 60_000, np.float16), "weights moved by"),
    ],
)
def test_an_update_of_another_type_or_of_no_numbers_is_refused(kind, sent, words):
    with pytest.raises(BadReply, match=words):
        read_update(_update(w=sent), "A", WEIGHTS, 4, kind)


@pytest.mark.parametrize(
    "metrics",
    [
        {**METRICS, "loss": float("nan")},
        {**METRICS, "loss": [1.0, 2.0]},
        {**METRICS, "embedding-std": float("inf")},
        {**METRICS, "cells": -1},
        {**METRICS, "cells": 1.5},
        {"loss": 1.0},
    ],
)
def test_metrics_that_are_none_are_refused(metrics):
    with pytest.raises(BadReply, match="metrics"):
        read_update(_update(metrics), "A", WEIGHTS, 4)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ConfigRecord({"reason": "no space"}), "no space"),
        (ConfigRecord({"reason": b"\xff"}), "no reason in words"),
        (ConfigRecord({"reason": 3}), "no reason in words"),
        (ConfigRecord({}), "no reason in words"),
        (MetricRecord({"reason": 3}), "no reason in words"),
        (None, "no reason in words"),
        (ConfigRecord({"reason": ""}), "without a reason"),
        (
            ConfigRecord({"reason": "a\n2026-01-01 ERROR forged\x1b[31m"}),
            "a 2026-01-01 ERROR forged",
        ),
    ],
)
def test_a_reason_is_one_line_whatever_was_sent(record, words):
    reason = reason_of(record)
    assert reason.startswith(words) or words in reason
    assert reason.isprintable()


def test_a_reason_is_short():
    assert len(reason_of(ConfigRecord({"reason": "x" * 10**7}))) == 500
    assert last_line("Traceback\n  File x\nValueError: 3\n\n") == "ValueError: 3"
    assert last_line("") == last_line(None) == "failed without a reason"


_SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.booleans(),
)  # fmt: skip
_ARRAYS = st.builds(
    Array,
    st.sampled_from(["float32", "float64", "int64", "object", "<U3", ""]),
    st.lists(st.integers(-2, 2**40), max_size=3).map(tuple),
    st.sampled_from(["numpy.ndarray", "", "safetensors"]),
    st.one_of(st.binary(max_size=200), st.just(tensors.pack(WEIGHTS)), st.just(_described())),
)
_KEYS = st.one_of(st.sampled_from(["tensors", "cells", "loss", "reason", "genes"]), st.text())
_RECORDS = st.one_of(
    st.dictionaries(_KEYS, _SCALARS, max_size=5).map(ConfigRecord),
    st.dictionaries(_KEYS, st.one_of(st.integers(-9, 9), st.floats()), max_size=5).map(
        MetricRecord
    ),
    st.dictionaries(_KEYS, _ARRAYS, max_size=3).map(ArrayRecord),
)


@given(
    st.dictionaries(st.sampled_from(["update:A", "metrics:A", "sums:A", "x"]), _RECORDS), st.text()
)
def test_rubbish_is_refused_in_words_or_taken_whole(content, name):
    content = RecordDict(content)
    for take in (
        lambda: read_update(content, "A", WEIGHTS, 4),
        lambda: read_sums(content.get("sums:A"), EXPECTED, 5),
        lambda: read_about(name, 1, content.get("x")),
    ):
        with suppress(BadReply):
            take()
    assert reason_of(content.get("x")).isprintable()
