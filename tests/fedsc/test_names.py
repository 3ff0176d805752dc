import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.errors import ConfigError
from fedsc.names import LONGEST, check_name, is_name, safe_name, safe_names


@given(st.text(max_size=200))
def test_any_text_becomes_a_name(text):
    assert is_name(safe_name(text))


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True))
def test_a_name_stays_as_it_is(name):
    assert safe_name(name) == name == check_name(name, "option run-name")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lab c", "lab-c"),
        ("my cells (v2)", "my-cells-v2"),
        ("Charité", "Charite"),
        ("../../etc", "etc"),
        ("病", "u75c5"),
        ("   ", "unnamed"),
        ("x" * 300, "x" * LONGEST),
    ],
)
def test_examples(text, name):
    assert safe_name(text) == name


@pytest.mark.parametrize("text", ["", "../x", ".hidden", "-x", "a b", "a/b", "x" * 64, "a\n", "ä"])
def test_what_is_no_name_is_refused_in_words(text):
    with pytest.raises(ConfigError, match=r"option run-name = .*should be 1 to 63 letters"):
        check_name(text, "option run-name")


def test_texts_get_names_of_their_own():
    assert safe_names(["lab c", "lab b"], "files") == {"lab-b": "lab b", "lab-c": "lab c"}
    with pytest.raises(ConfigError, match="files: 'A' and 'a' would both be named 'a': rename one"):
        safe_names(["A", "a"], "files")
