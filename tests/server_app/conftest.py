import pytest


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.waits = []
        self.at_wait = {}  # what happens at which wait, from 1
        self.after = {}  # what happens once when so much time has passed

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += max(seconds, 1e-6)  # as real time does, also past what a float can add
        self.waits.append(seconds)
        self.at_wait.get(len(self.waits), lambda: None)()
        for due in sorted(due for due in self.after if due <= self.now):
            self.after.pop(due)()


@pytest.fixture
def clock():
    return Clock()
