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


def test_a_simulated_lab_tells_the_text_of_our_own_errors_alone():
    assert pack_error(DataError("cell 'P2_C'", "a cell"), simulated=True)["reason"] == "cell 'P2_C'"
    assert "P2_C" not in pack_error(KeyError("P2_C"), simulated=True)["reason"]
