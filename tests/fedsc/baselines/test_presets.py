from dataclasses import dataclass
from typing import Literal

import pytest

from fedsc.baselines.presets import choose
from fedsc.errors import ConfigError
from fedsc.options import Count, Positive


@dataclass(frozen=True)
class Preset:
    epochs: Count
    learning_rate: Positive = 0.1
    kind: Literal["a", "b"] = "a"


PRESETS = {"first": Preset(3), "second": Preset(7, kind="b")}


def chosen(preset="", **overrides):
    return choose(PRESETS, preset, overrides)


def test_first_is_the_default():
    assert chosen() is not None
    assert chosen() == PRESETS["first"]
    assert chosen("second") == PRESETS["second"]


def test_overrides_change_single_values_and_leave_the_preset_as_it_is():
    assert chosen("second", epochs=2) == Preset(2, kind="b")
    assert chosen(**{"learning-rate": 0.5}) == Preset(3, 0.5)
    assert PRESETS["second"] == Preset(7, kind="b")


def test_unknown_preset_names_those_there_are():
    with pytest.raises(ConfigError, match="unknown preset 'third'; known are first, second"):
        chosen("third")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 2}, "unknown option 'epoch': did you mean 'epochs'?"),
        ({"zzz": 2}, "unknown option 'zzz': known are epochs, learning_rate, kind"),
        ({"epochs": 0}, "option epochs = 0: should be greater than or equal to 1"),
        ({"epochs": "many"}, "option epochs = 'many': should be a valid integer"),
        ({"kind": "c"}, "option kind = 'c': should be 'a' or 'b'"),
        ({"epochs": 0, "kind": "c"}, "option epochs = 0.*; option kind = 'c'"),
    ],
)
def test_bad_overrides_are_all_named(overrides, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        chosen(**overrides)
