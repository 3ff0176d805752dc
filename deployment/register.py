"""The register: the labs of a deployment, each with its public key, one file ``NAME.pub`` a lab.

``fedsc deploy register`` writes it when Flower has taken the key; the ServerApp reads it whenever
a lab describes itself, so a lab may be registered while a run goes on.
"""

import os
from pathlib import Path

from deployment.layout import write
from fedsc.errors import RunError

VARIABLE = "FEDSC_REGISTER"
"""Environment variable that tells the ServerApp the register's folder."""


def register_of(environment: dict[str, str] | os._Environ[str]) -> Path | None:
    """Give the register's folder; ``None`` where there is none, as in a simulation."""
    return Path(environment[VARIABLE]) if environment.get(VARIABLE) else None


def record(register: Path, lab: str, key: bytes) -> None:
    """Record that a name belongs to a public key.

    Raises
    ------
    RunError
        If it cannot be written, or the key is another lab's.
    """
    register.mkdir(mode=0o755, exist_ok=True)
    for other in sorted(register.glob("*.pub")):
        if other.stem != lab and other.read_bytes().split()[:2] == key.split()[:2]:
            raise RunError(f"lab {lab}: its key is that of lab {other.stem}; each needs its own")
    write(register / f"{lab}.pub", key)


def key_of(register: Path, lab: str) -> bytes | None:
    """Give a lab's public key; ``None`` where the lab is not registered.

    Parameters
    ----------
    register
        Its folder.
    lab
        A name, checked (:mod:`fedsc.names`).
    """
    try:
        return (register / f"{lab}.pub").read_bytes()
    except OSError:
        return None
