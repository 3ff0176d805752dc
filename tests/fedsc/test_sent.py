"""The record of what a lab has sent: whole lines, whoever writes, whatever the disk does."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import pytest

from fedsc.errors import RunError
from fedsc.sent import SENT, Answer, Part, read_sent, record

ANSWER = Answer(
    time="2026-01-02T12:00:00+00:00",
    asked="sums of the prepared cells",
    questions=("pca-mean",),
    round=None,
    bytes=1024,
    holds=(Part("sums/n", "int64", (1,)), Part("sums/sum", "float64", (127,))),
)


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "state" / "run"
    assert list(read_sent(folder)) == []
    later = replace(ANSWER, round=3, asked="gènes", holds=())
    for answer in (ANSWER, later):
        record(folder, answer)
    assert list(read_sent(folder)) == [ANSWER, later]
    assert len((folder / SENT).read_text().splitlines()) == 2


def _write(folder, number):
    record(folder, replace(ANSWER, bytes=number))


def test_lines_of_several_processes_do_not_mix(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(partial(_write, tmp_path), range(200)))
    assert sorted(answer.bytes for answer in read_sent(tmp_path)) == list(range(200))


@pytest.mark.parametrize("odd", [b'{"time": "2026', b"\0" * 30, b"[]\n", b"{}\n", b"\xff\n", b"\n"])
def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, odd):
    record(tmp_path, ANSWER)
    with (tmp_path / SENT).open("ab") as file:
        file.write(odd)
    record(tmp_path, ANSWER)
    assert list(read_sent(tmp_path)) == [ANSWER, ANSWER]


def test_a_full_disk_is_a_sentence_and_what_follows_is_whole(full_disk):
    many = replace(ANSWER, holds=ANSWER.holds * 20)
    taken = []

    def until_it_is_full():
        while True:
            record(full_disk, many)
            taken.append(many)

    with pytest.raises(RunError, match="No space left on device; free some space") as told:
        until_it_is_full()
    assert str(full_disk) not in told.value.outside
    assert list(read_sent(full_disk)) == taken
    with (full_disk / SENT).open("rb+") as file:  # space for a last one
        file.truncate(100)
    record(full_disk, ANSWER)
    assert list(read_sent(full_disk)) == [ANSWER]


def test_a_disk_that_takes_no_changes_is_a_sentence(read_only_disk):
    with pytest.raises(RunError, match="Read-only file system"):
        record(read_only_disk, ANSWER)
