"""The one rule for names of labs, runs and deployments, which become folders, ids and columns.

A name is 1 to 63 letters (a–z, A–Z), digits, ``.``, ``_`` and ``-``, and starts with a letter or
a digit. So it is safe as the name of a file, a folder, a container and a record, everywhere.
"""

import re
import unicodedata
from collections.abc import Iterable

from fedsc.errors import ConfigError

LONGEST = 63
RULE = f"1 to {LONGEST} letters, digits, '.', '_' and '-', a letter or digit first"

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")


def is_name(text: str) -> bool:
    """Say whether a text is a name."""
    return bool(_NAME.fullmatch(text))


def check_name(text: str, what: str) -> str:
    """Give a name back.

    Parameters
    ----------
    text
        As a person typed it.
    what
        What it names, for the message, e.g. ``"option run-name"``.

    Raises
    ------
    ConfigError
        If it is no name.
    """
    if not is_name(text):
        raise ConfigError(f"{what} = {text[:80]!r}: should be {RULE}", f"{what}: should be {RULE}")
    return text


def safe_name(text: str) -> str:
    """Turn any text into a name: accents go, other letters become their code, the rest ``-``."""
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)
    )
    coded = "".join(
        f"u{ord(char):x}" if char.isalnum() and not char.isascii() else char for char in plain
    )
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", coded).strip("-._")
    return words[:LONGEST].rstrip("-._") or "unnamed"


def safe_names(texts: Iterable[str], what: str) -> dict[str, str]:
    """Turn texts into names, each its own.

    Parameters
    ----------
    texts
        Values of a column, names of files, …; unique.
    what
        What they are, for the message, e.g. ``"column 'donor'"``.

    Returns
    -------
    dict of str to str
        Name to text, sorted by name.

    Raises
    ------
    ConfigError
        If two texts would have the same name; some file systems do not tell ``A`` from ``a``.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for text in texts:
        name = safe_name(text)
        other = taken.setdefault(name.casefold(), text)
        if other != text:
            raise ConfigError(
                f"{what}: '{other}' and '{text}' would both be named '{name}': rename one"
            )
        names[name] = text
    return dict(sorted(names.items()))
