"""What a round does beside training, counted: nothing grows faster than the labs."""

import os
from collections import Counter

import pytest

from fedsc import tensors
from simulations.inprocess import run_inprocess


@pytest.fixture
def counted(unlabelled, change, monkeypatch):
    """Count what a further round of so many labs does, on one node of this process."""
    counts = Counter()

    def watch(place, name):
        original = getattr(place, name)

        def watched(*given, **named):
            counts[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(place, name, watched)

    for name in ("fsync", "link", "replace"):
        watch(os, name)
    for name in ("_gmac", "_sha256", "pack", "unpack", "read"):
        watch(tensors, name)

    def count(labs):
        done = []
        for rounds in (1, 2, 3):  # the first prepares what others share
            counts.clear()
            options = {"labs": labs, "rounds": rounds, "run_name": f"{labs}-{rounds}"}
            run_inprocess(change(unlabelled, min_cells=1, **options), nodes=1, processes=1)
            done.append(Counter(counts))
        return done[2] - done[1]

    return count


@pytest.mark.parametrize("labs", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_round_syncs_two_files_and_takes_two_digests_for_any_number_of_labs(counted, labs):
    found = counted(labs)
    assert found["fsync"] == 2  # all private states; the checkpoint
    assert found["_gmac"] == 2
    assert found["_sha256"] == 0
    assert found["read"] == 0  # a process need not read what it wrote
    assert (
        found["link"] == labs + 1
    )  # all private states but the first; the checkpoint before, twice
    assert found["replace"] == 3  # both, and the checkpoint before
    assert found["pack"] == found["unpack"] == 0  # nothing leaves the process
