"""Whatever a lab sends, the server gets what it expects or a BadReply in words."""

from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client_app import messages
from server_app.replies import BadReply, about_of, last_line, reason_of, sums_of, update_of

GOOD = {"cells": 5, "kind": "counts", "genes": b"a\nb", "types": b"x\ny", "siblings": 0}


def _about(**changes):
    return ConfigRecord({**GOOD, **changes})


def test_a_description_is_taken():
    about = about_of("lab-1", 7, _about())
    assert (about.node, about.cells, about.kind, about.types) == (7, 5, "counts", ("x", "y"))
    assert about.genes.tolist() == ["a", "b"]
    assert not about.simulated
    assert (
        about_of("A", 7, ConfigRecord({k: v for k, v in GOOD.items() if k != "types"})).types == ()
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
        ({"siblings": 10**6}, "siblings"),
    ],
)
def test_a_description_that_is_none_is_refused(changes, words):
    with pytest.raises(BadReply, match=words) as caught:
        about_of("A", 7, _about(**changes))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["", "a b", "../a", "x" * 101, "x" * 10**6, "a\nb"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BadReply, match="calls itself") as caught:
        about_of(name, 7, _about())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("record", [None, MetricRecord({"cells": 1}), ArrayRecord(), {}])
def test_a_record_of_another_type_is_refused(record):
    with pytest.raises(BadReply):
        about_of("A", 7, record)
    with pytest.raises(BadReply):
        sums_of(record, {"n": np.zeros(1)}, 5)
    with pytest.raises(BadReply):
        update_of(RecordDict({"update:A": record} if record else {}), "A", {"w": np.zeros(1)})


EXPECTED = {"n": np.zeros(2, dtype=np.int64), "sum": np.zeros((2, 3))}


def _sums(**changes):
    sums = {"n": np.array([1, 2]), "sum": np.ones((2, 3))}
    return messages.pack_arrays(sums | changes)


def test_sums_are_taken():
    sums = sums_of(_sums(), EXPECTED, 2)
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
        ({"n" * 1000: np.ones(1)}, "n" * 60 + "'"),
    ],
)
def test_sums_that_are_none_are_refused(changes, words):
    with pytest.raises(BadReply, match=words):
        sums_of(_sums(**changes), EXPECTED, 2)


def _lying(data, shape=(2, 3), dtype="float64", stype="numpy.ndarray"):
    return ArrayRecord(
        {"n": Array(np.zeros(2, dtype=np.int64)), "sum": Array(dtype, shape, stype, data)}
    )


def _npy(array):
    return Array(array).data


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (_lying(b""), "cannot be decoded"),
        (_lying(b"rubbish"), "cannot be decoded"),
        (_lying(b"PK\x03\x04" + b"\0" * 40), "cannot be decoded|not what its header"),
        (_lying(_npy(np.ones((2, 3))), stype="pickle"), "cannot be decoded"),
        (_lying(_npy(np.ones((2, 3)))[:-8]), "cannot be decoded"),
        (_lying(_npy(np.ones((2, 2)))), "not what its header"),
        (_lying(_npy(np.ones((2, 3), dtype=np.float32))), "not what its header"),
        (_lying(_npy(np.ones((2, 3))), shape=(10**9, 10**9)), "should be"),
        # Its own header promises terabytes.
        (
            _lying(_npy(np.ones((2, 3))).replace(b"(2, 3)", b"(999999999999, 3)")[:200]),
            "cannot be decoded",
        ),
    ],
)
def test_arrays_whose_headers_lie_are_refused(record, words):
    with pytest.raises(BadReply, match=words):
        sums_of(record, EXPECTED, 5)


def test_a_reply_of_100_mb_is_refused_by_its_size_and_never_decoded(monkeypatch):
    monkeypatch.setattr(Array, "numpy", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(BadReply, match="carries 104857600 bytes, should be 16"):
        sums_of(
            ArrayRecord(
                {"n": Array("int64", (2,), "numpy.ndarray", bytes(100 * 2**20)), "sum": Array(
                    np.ones((2, 3)))}
            ),
            EXPECTED,
            5,
        )  # fmt: skip


WEIGHTS = {"w": np.zeros((2, 2), dtype=np.float32)}
METRICS = {"cells": 4, "loss": 1.5, "embedding-std": 0.5, "seconds": 2}


def _update(metrics=None, **changes):
    arrays = messages.pack_arrays({"w": np.ones((2, 2), dtype=np.float32)} | changes)
    return RecordDict({"update:A": arrays, "metrics:A": MetricRecord(metrics or METRICS)})


def test_an_update_is_taken():
    update, metrics = update_of(_update(), "A", WEIGHTS)
    assert update["w"].dtype == np.float32
    assert metrics == {"cells": 4, "loss": 1.5, "embedding_std": 0.5, "seconds": 2.0}


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
        update_of(_update(metrics), "A", WEIGHTS)


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
    assert last_line("") == "failed without a reason"


_SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.booleans(),
)  # fmt: skip
_ARRAYS = st.builds(
    Array,
    st.sampled_from(["float32", "float64", "int64", "object", "<U3", ""]),
    st.lists(st.integers(-2, 2**40), max_size=3).map(tuple),
    st.sampled_from(["numpy.ndarray", "", "torch"]),
    st.one_of(st.binary(max_size=200), st.just(_npy(np.zeros((2, 2), dtype=np.float32)))),
)
_KEYS = st.one_of(st.sampled_from(["w", "n", "sum", "cells", "loss", "reason", "genes"]), st.text())
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
        lambda: update_of(content, "A", WEIGHTS),
        lambda: sums_of(content.get("sums:A"), EXPECTED, 5),
        lambda: about_of(name, 1, content.get("x")),
    ):
        with suppress(BadReply):
            take()
    assert reason_of(content.get("x")).isprintable()
