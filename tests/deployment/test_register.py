import pytest

from deployment.certificates import make_supernode_key
from deployment.register import VARIABLE, key_of, record, register_of
from fedsc.errors import RunError


def test_a_name_has_the_key_that_was_recorded_last(tmp_path):
    register, (_, one), (_, two) = tmp_path / "register", make_supernode_key(), make_supernode_key()
    assert key_of(register, "A") is None
    record(register, "A", one)
    record(register, "A", two)
    record(register, "A", two)
    assert key_of(register, "A") == two
    assert key_of(register, "B") is None


def test_two_labs_cannot_have_one_key(tmp_path):
    _, key = make_supernode_key()
    record(tmp_path / "register", "A", key)
    with pytest.raises(RunError, match="lab B: its key is that of lab A"):
        record(tmp_path / "register", "B", key + b" comment\n")
    assert key_of(tmp_path / "register", "B") is None


def test_the_environment_names_the_register(tmp_path):
    assert register_of({}) is None
    assert register_of({VARIABLE: ""}) is None
    assert register_of({VARIABLE: str(tmp_path)}) == tmp_path
