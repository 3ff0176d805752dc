"""What can be said of CUDA graphs without a GPU: what happens where there is none to be had."""

import logging

import pytest
import torch

from fedsc import stacked
from fedsc.config import Config
from fedsc.cuda_graph import capture
from fedsc.training import batch_sizes
from simulations.benchmarks.gpu_check import (
    farthest,
    first_weights,
    labs_of,
    nothing_kept,
    stack_of,
    stacked_round,
)


def test_a_step_that_cannot_be_captured_is_said_and_the_stream_is_put_back(monkeypatch, caplog):
    streams = []

    def fail():
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(torch.cuda, "Stream", fail)
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    with caplog.at_level(logging.WARNING):
        assert capture(lambda: None, torch.Generator()) is None
    assert streams == ["the stream before"]
    assert len(caplog.records) == 1
    assert "labs train without CUDA graphs" in caplog.text


@pytest.fixture(scope="module")
def simulated(tiny_set):
    config = Config.of(
        dataset=str(tiny_set), n_genes=20, min_shared_genes=10, batch_size=8, local_epochs=1,
        labs=3, partition="dirichlet", label_key="cell_type", method="fedmoco-v1",
    )  # fmt: skip
    return config, labs_of(config)


@pytest.mark.parametrize("works", [True, False])
def test_recording_leaves_no_trace_in_what_is_trained(works, simulated, monkeypatch):
    """To record a step takes some steps, whose weights, queues and draws have to go again."""
    recorded = []

    def rehearsed(work, generator):
        for _ in range(4):
            work()
        recorded.append(work)
        return work if works else None

    monkeypatch.setattr(stacked, "capture", rehearsed)
    config, cells = simulated
    weights, nothing = first_weights(config, cells), nothing_kept(cells)
    plain = stack_of(config, cells, "cpu")
    graphs = stack_of(config, cells, "cpu", graphs=True)
    found = [stacked_round(one)(weights, nothing, 1) for one in (graphs, plain)]
    assert farthest(*found) == 0
    assert graphs.graphs == works
    assert not plain.graphs
    different = {len(batch_sizes(own.n_cells, 8)) for own in cells.values()}
    assert len(different) > 1
    assert len(recorded) == (len(different) if works else 1)  # for each number of labs in a step
