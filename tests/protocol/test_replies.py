"""What a lab says of its failures."""

import pytest

from fedsc.errors import ConfigError, DataError, RunError
from protocol.replies import pack_error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("P2_C"), "KeyError: the lab's own log says more"),
        (DataError("cell 'P2_C'"), "DataError: the lab's own log says more"),
        (RunError("cannot write /home/x", "cannot write"), "cannot write"),
        (ConfigError.without_data("k = 3"), "k = 3"),
    ],
)
def test_only_words_made_for_others_leave_a_lab(error, reason):
    told = pack_error(error)
    assert told["reason"] == reason
    assert told["final"] is isinstance(error, DataError | ConfigError)


def test_a_simulated_lab_tells_all_and_of_a_fault_in_the_program_where_it_arose():
    assert pack_error(DataError("cell 'P2_C'", "a cell"), simulated=True)["reason"] == "cell 'P2_C'"
    try:
        [][1]
    except IndexError as error:
        told = pack_error(error, simulated=True)
    line = test_a_simulated_lab_tells_all_and_of_a_fault_in_the_program_where_it_arose.__code__
    place = f"({__file__}, line {line.co_firstlineno + 3})"
    assert told["reason"] == f"IndexError: list index out of range {place}"
