"""Choose a method's preset and change single values of it, with errors for a person."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedsc.errors import ConfigError

P = TypeVar("P")


def choose(presets: Mapping[str, P], name: str, overrides: Mapping[str, Any]) -> P:
    """Give the preset a person asked for, with the overrides applied.

    Parameters
    ----------
    presets
        Frozen dataclasses by name, the default first. The types of their fields, pydantic's
        constraints included, say which values are allowed.
    name
        Which; ``""`` = the first.
    overrides
        Single values to change; their names may be kebab-case.

    Raises
    ------
    ConfigError
        Naming every unknown or bad value and what is allowed.
    """
    name = name or next(iter(presets))
    if name not in presets:
        raise ConfigError(f"unknown preset '{name}'; known are {', '.join(presets)}")
    preset: Any = presets[name]
    overrides = {key.replace("-", "_"): value for key, value in overrides.items()}
    known = [field.name for field in fields(preset)]
    problems = []
    for key in overrides.keys() - set(known):
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
        problems.append(f"unknown option '{key}': {hint}")
    values = asdict(preset) | {key: overrides[key] for key in known if key in overrides}
    chosen = preset
    try:
        chosen = TypeAdapter(type(preset)).validate_python(values)
    except ValidationError as error:
        problems += [
            f"option {finding['loc'][0]} = {finding['input']!r}: "
            f"{finding['msg'].removeprefix('Input ')}"
            for finding in error.errors()
        ]
    if problems:
        raise ConfigError("; ".join(sorted(problems)))
    return chosen  # type: ignore[no-any-return]
