"""A real lab's own record holds every answer it has sent, and no value of it."""

import copy
from datetime import UTC, datetime

import anndata
import pytest

from client_app import app as client
from client_app import main
from fedsc.errors import RunError
from fedsc.federated.answers import CHECKS, WORDS
from fedsc.sent import SENT, read_sent
from protocol import records

LABS = {"A": slice(0, 40), "B": slice(40, 96)}
RUNS = {
    "trained": {"method": "fedsc", "rounds": 2},
    "harmony": {"method": "fedpca", "integrate": "harmony", "files": True},
}


@pytest.fixture
def nodes(tiny_set, tmp_path):
    cells = anndata.read_h5ad(tiny_set)
    for lab, rows in LABS.items():
        cells[rows].copy().write_h5ad(tmp_path / f"{lab}.h5ad")
    return [
        {"lab": lab, "data": str(tmp_path / f"{lab}.h5ad"), "state": str(tmp_path / lab)}
        for lab in LABS
    ]


def watched(app=client):
    """Give an app, and the replies of each of its labs, as they left it."""
    left = {lab: [] for lab in LABS}

    def watch(message, context):
        reply = app(message, context)
        left[context.node_config["lab"]].append(copy.deepcopy(reply))
        return reply

    return watch, left


def held(reply):
    """Name every array, number and text of a reply with its type and shape."""
    for name, record in reply.content.items():
        what = name.split(":")[0]
        if name in reply.content.array_records:
            for of, array in sorted(records.unpack_arrays(record).items()):
                yield f"{what}/{of}", str(array.dtype), array.shape
        else:
            for of, value in record.items():
                long = isinstance(value, str | bytes | list)
                yield f"{what}/{of}", type(value).__name__, (len(value),) if long else ()


@pytest.mark.parametrize("how", RUNS)
def test_every_answer_that_left_is_on_record(tiny, change, lead, nodes, tmp_path, how):
    app, left = watched()
    before = datetime.now(UTC).replace(microsecond=0)
    lead(change(tiny, wait_for_labs=2, **RUNS[how]), nodes, app=app)
    for lab, replies in left.items():
        sent = list(read_sent(tmp_path / lab / "run"))
        assert len(sent) == len(replies) > 10
        for line, reply in zip(sent, replies, strict=True):
            assert [(p.name, p.dtype, p.shape) for p in line.holds] == list(held(reply))
            assert line.bytes == records.content_bytes(reply.content)
            assert before <= datetime.fromisoformat(line.time) <= datetime.now(UTC)
        asked = [line.asked for line in sent]
        assert "number of cells, names of genes" in asked[0]
        assert not any("does not know" in words for words in asked)
        rounds = [line.round for line in sent if line.questions == (records.TRAIN,)]
        assert rounds == ([1, 2] if how == "trained" else [])
        # Text is only what FedSC says, names of parts and types: no gene, no cell, no type.
        text = (tmp_path / lab / "run" / SENT).read_text()
        assert not any(word in text for word in ("TP1", "cell1", "type1", str(tmp_path)))
        if how == "harmony":  # the lab's report sums it up, but for its own name
            page = (tmp_path / lab / "run" / f"{lab}.fedsc.html").read_text()
            total = sum(line.bytes for line in sent[:-1])
            assert f'{len(sent) - 1:,}</td><td class="n">{total:,}</td>' in page


def test_simulated_labs_keep_no_record(tiny, lead):
    left = lead(tiny)
    assert (left.folder / "labs" / "lab-0").is_dir()
    assert not list(left.folder.rglob(SENT))


def test_a_failure_is_on_record_as_what_was_said(tiny, change, lead, nodes, tmp_path):
    nodes[0]["label-key"] = "none"
    lead(change(tiny, method="fedpca", wait_for_labs=1), nodes)
    sent = list(read_sent(tmp_path / "A" / "run"))
    assert sent
    assert {part.name for line in sent for part in line.holds} == {"error/reason", "error/final"}


def test_the_record_goes_on_when_a_run_is_resumed(tiny, change, lead, nodes, tmp_path):
    config = change(tiny, wait_for_labs=2, rounds=1)
    left = lead(config, nodes)
    path = tmp_path / "A" / "run" / SENT
    before = path.read_bytes()
    lead(change(config, rounds=4, resume=str(left.folder)), nodes)
    assert len(list(path.parent.glob("private-*"))) == 2  # what is old goes, the record stays
    assert path.read_bytes().startswith(before)
    trained = [line.round for line in read_sent(path.parent) if line.round]
    assert trained == [1, 2, 3, 4]


def test_what_cannot_be_recorded_does_not_leave(
    tiny, change, lead, nodes, tmp_path, monkeypatch, caplog
):
    original = main.record_answer

    def full(folder, message, content):
        if folder.parent.name == "A" and message.metadata.message_type == records.TRAIN:
            raise RunError(f"cannot write {folder}: full", "cannot write at the lab: full")
        original(folder, message, content)

    monkeypatch.setattr(main, "record_answer", full)
    app, left = watched()
    with caplog.at_level(0, "flwr"):
        run = lead(change(tiny, wait_for_labs=2, min_updates=1, rounds=2), nodes, app=app)
    trained = [r for r in left["A"] if r.metadata.message_type == records.TRAIN]
    assert len(trained) == 2
    for reply in trained:
        assert set(reply.content) == {"error:A"}
        assert reply.content["error:A"]["reason"] == "cannot write at the lab: full"
    assert run.by_round[1, "A"]["failed"] == "cannot write at the lab: full"
    assert "lab A sends no answer in train, since it cannot be recorded: cannot" in caplog.text
    assert run.by_round[2, "B"]["loss"] > 0


def test_a_state_that_takes_no_changes_keeps_a_lab_from_describing_itself(
    tiny, change, lead, nodes, read_only_disk
):
    nodes[0]["state"] = str(read_only_disk)
    left = lead(change(tiny, method="fedpca", wait_for_labs=1), nodes)
    assert "cannot make the folder at the lab: Read-only file system" in left.log


def test_every_question_has_words():
    assert WORDS.keys() == CHECKS.keys() - {"several"}


def test_a_question_that_nobody_knows_is_on_record_with_the_lab_s_refusal(
    tiny, change, lead, nodes, tmp_path
):
    def strange(message, context):
        if message.metadata.message_type == records.ASK:
            message.content["question"]["name"] = "everything"
        return client(message, context)

    with pytest.raises(RunError):
        lead(change(tiny, method="fedpca", wait_for_labs=2), nodes, app=strange)
    last = list(read_sent(tmp_path / "A" / "run"))[-1]
    assert last.questions == ("everything",)
    assert last.asked == "what this version of FedSC does not know"
