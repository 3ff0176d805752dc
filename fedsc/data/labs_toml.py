"""What labs say of their own files: a table for each in ``labs.toml``, beside the files."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError

LABS = "labs.toml"
OWN: Mapping[str, type] = {
    "label-key": str,
    "batch-key": str,
    "layer": str,
    "symbols": str,
    "make-unique": bool,
}
"""What a lab may say of its own file, and of which type it is."""


def own_columns(folder: Path, labs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read what the labs of a simulation say of their own files in ``labs.toml``.

    Parameters
    ----------
    folder
        Holds the labs' files.
    labs
        Their names.

    Returns
    -------
    dict
        As :func:`told_by_labs`, of every lab.

    Raises
    ------
    ConfigError
        If the file cannot be used, or names a lab that is not there.
    """
    told, known = told_by_labs(folder), list(labs)
    for lab in told:
        if lab not in known:
            raise ConfigError(
                f"{folder / LABS}: there is no lab '{lab}'; there are {', '.join(known)}"
            )
    return {lab: told.get(lab, {}) for lab in known}


def told_by_labs(folder: Path) -> dict[str, dict[str, Any]]:
    """Read ``labs.toml`` beside labs' files, which may be missing.

    A table for each lab with some of ``label-key``, ``batch-key``, ``layer``, ``symbols`` and
    ``make-unique``, which go before the run's options of these names.

    Returns
    -------
    dict
        Of every lab in it; keys with underscores.

    Raises
    ------
    ConfigError
        If the file is no TOML, or has a key or a value that is none of these.
    """
    path, found = folder / LABS, dict[str, dict[str, Any]]()
    if not path.exists():
        return found
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read as TOML ({error})", f"the lab's {LABS} cannot be read as TOML"
        ) from None
    for lab, own in told.items():
        found[lab] = checked(own if isinstance(own, dict) else {"": own}, f"{path}: {lab}", LABS)
    return found


def read_as(own: Mapping[str, Any], how: ReadAs, batch_key: str = "") -> tuple[ReadAs, str]:
    """Let what a lab says of its file go before the run's options.

    Parameters
    ----------
    own
        Of one lab, as :func:`told_by_labs` gives it.
    how, batch_key
        What the run's options say.

    Returns
    -------
    tuple
        How the file is read, and its column with batches: its own, or that of the run.
    """
    columns = dict(own)
    batch_key = columns.pop("batch_key", "") or batch_key
    return replace(how, **columns), batch_key


def checked(told: Mapping[str, Any], where: str, kind: str) -> dict[str, Any]:
    """Refuse what a lab cannot say of its own file; give the rest with underscores in the keys.

    Parameters
    ----------
    told
        Keys of :data:`OWN` and their values.
    where
        Names the place for the lab's own log.
    kind
        Names it for the server, e.g. ``"labs.toml"``.

    Raises
    ------
    ConfigError
        If a key is none, or a value is of another type.
    """
    for key, value in told.items():
        if not isinstance(value, OWN.get(key, ())):
            known = ", ".join(f"{name} ({_TYPES[of]})" for name, of in OWN.items())
            raise ConfigError(
                f"{where}: {key} = {value!r}; known are {known}",
                f"the lab's {kind} has a key or a value that is none; known are {known}",
            )
    return {key.replace("-", "_"): value for key, value in told.items()}


_TYPES = {str: "text", bool: "true or false"}
