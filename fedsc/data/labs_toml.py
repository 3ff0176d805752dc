"""What labs say of their own files: a table for each in ``labs.toml``, beside the files."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedsc.errors import ConfigError

LABS = "labs.toml"
_OWN = {"label-key": str, "batch-key": str, "layer": str, "symbols": str, "make-unique": bool}


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
        found[lab] = {}
        for key, value in own.items() if isinstance(own, dict) else [("", own)]:
            if not isinstance(value, _OWN.get(key, ())):
                known = ", ".join(_OWN)
                raise ConfigError(
                    f"{path}: {lab}: {key} = {value!r}; known are {known}",
                    f"the lab's {LABS} has a key or a value that is none; known are {known}",
                )
            found[lab][key.replace("-", "_")] = value
    return found
