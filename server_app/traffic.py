"""What messages carry, counted."""

from dataclasses import dataclass


@dataclass
class Traffic:
    """What the messages of a run carried: bytes of their arrays, texts and numbers."""

    to_labs: int = 0
    from_labs: int = 0
