"""What the log of a run says of its phases, also of a run that was stopped and went on."""

import json

from fedsc.run_log import Phase, phases, read_entries, times_resumed


def line(second, **fields):
    return json.dumps({"time": f"2026-01-02T12:00:{second:02d}", "level": "INFO", **fields})


def summed(*lines):
    return phases(read_entries(lines))


def test_a_phase_ends_where_the_next_begins():
    found = summed(
        line(0, phase="gathering the labs", to_labs=0, from_labs=0),
        line(3, phase="training", to_labs=10, from_labs=4),
        line(5, round=1, to_labs=60, from_labs=50),
        line(9, phase="report", to_labs=110, from_labs=104),
    )
    assert found == {"gathering the labs": Phase(3.0, 10, 4), "training": Phase(6.0, 100, 100)}


def test_parts_of_a_stopped_run_are_added_up_without_the_time_between():
    found = summed(
        line(0, phase="training", to_labs=5, from_labs=0),
        line(4, round=1, to_labs=25, from_labs=8),
        line(5, message="words without traffic"),
        line(38, changed={"rounds": [1, 2]}),
        line(39, flower_run="1", folder="/run"),
        line(40, phase="gathering the labs", to_labs=0, from_labs=0),
        line(41, phase="training", to_labs=5, from_labs=0),
        line(43, phase="report", to_labs=7, from_labs=1),
    )
    assert found == {"training": Phase(7.0, 22, 9), "gathering the labs": Phase(1.0, 5, 0)}


def test_an_older_log_knows_times_alone_and_damage_is_passed_over():
    found = summed(
        line(0, phase="a"), "half a li", "[1]", "{}", '{"time": "never"}', line(2, phase="b")
    )
    assert found == {"a": Phase(2.0, None, None)}


def test_the_log_of_a_run_counts_time_and_traffic_of_every_phase(undisturbed):
    lines = (undisturbed.folder / "log.jsonl").read_text().splitlines()
    entries = list(read_entries(lines))
    assert len(entries) == len(lines)
    found = phases(entries)
    assert list(found)[:4] == ["gathering the labs", "statistics", "training", "floor"]
    told = [entry.fields["to_labs"] for entry in entries if "to_labs" in entry.fields]
    assert told == sorted(told)
    assert sum(phase.to_labs for phase in found.values()) == told[-1] > 0
    assert all(found[name].from_labs > 0 for name in ("statistics", "training", "floor"))


def test_a_run_counts_how_often_it_was_started_again():
    starts = [line(i, flower_run="1", folder="/run") for i in range(3)]
    assert [times_resumed(read_entries(starts[:n])) for n in range(4)] == [0, 0, 1, 2]
