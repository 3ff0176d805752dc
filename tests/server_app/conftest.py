import pytest


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.waits = []
        self.at_wait = {}  # what happens at which wait, from 1

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += max(seconds, 1e-6)  # as real time does, also past what a float can add
        self.waits.append(seconds)
        self.at_wait.get(len(self.waits), lambda: None)()


@pytest.fixture
def clock():
    return Clock()
