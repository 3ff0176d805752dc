"""What messages carry, counted."""

from dataclasses import dataclass

from flwr.app import Array, Message

from protocol.records import bytes_of

_NUMBER = 8  # bytes


@dataclass
class Traffic:
    """What the messages of a run carried: bytes of their arrays, texts and numbers."""

    to_labs: int = 0
    from_labs: int = 0


def content_bytes(message: Message) -> int:
    """Count the bytes of a message's content, without what a transport adds around it.

    To serialise every message only to learn its size took longer than to train on it.
    """
    return sum(
        bytes_of(value) if isinstance(value, Array) else _length(value)
        for record in message.content.values()
        for value in record.values()
    )


def _length(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_length, value))
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else _NUMBER
