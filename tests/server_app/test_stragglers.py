"""A whole run at whose end a lab is still busy: it gets its clusters and its file all the same."""

import json
from functools import partial

import anndata
import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.superlink.grid import HttpGrid

import server_app.main
from client_app import app as client
from fedsc.clusters import load_clusters
from fedsc.model import load_model
from server_app import app as server
from server_app.federation import Federation
from simulations.inprocess import InProcessGrid

HANG = 300.0  # round-timeout, seconds


class Network(HttpGrid):
    """Real labs behind a network; ``hangs`` says until when a lab works on a message."""

    def __init__(self, nodes, config, clock, hangs):
        super().__init__(token="x")
        self.inner = InProcessGrid(client, nodes, config)
        self.labs = {100 + i: node["lab"] for i, node in enumerate(nodes)}
        self.clock, self.hangs = clock, hangs
        self.sent, self.free = {}, dict.fromkeys(self.labs, 0.0)

    def get_node_ids(self):
        return list(self.labs)

    def push_messages(self, messages):
        for message in messages:
            name = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            node = message.metadata.dst_node_id
            # A node works on one message after the other.
            self.free[node] = max(
                self.free[node], self.clock.now, self.hangs(self.labs[node], message)
            )
            self.sent[name] = self.free[node], message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        found = []
        for name in message_ids:
            if name in self.sent and self.clock.now >= self.sent[name][0]:
                found += self.inner.send_and_receive([self.sent.pop(name)[1]])
        return found


@pytest.fixture
def run(tiny_run, tiny_set, tmp_path, clock, monkeypatch):
    """Lead a run of two rounds on labs A and B; give its folder and the labs' copies."""
    monkeypatch.setattr(server_app.main, "Federation", partial(Federation, clock=clock))
    cells = anndata.read_h5ad(tiny_set)
    nodes = []
    for lab, rows in (("A", slice(0, 60)), ("B", slice(60, 96))):
        cells[rows].copy().write_h5ad(tmp_path / f"{lab}.h5ad")
        data, state = str(tmp_path / f"{lab}.h5ad"), str(tmp_path / lab)
        nodes.append({"lab": lab, "data": data, "state": state})
    config = tiny_run.replace(
        label_key="",
        rounds=2,
        wait_for_labs=2,
        round_timeout=HANG,
        min_updates=1,
        output=str(tmp_path / "runs"),
    )

    def lead(hangs):
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_mapping()
        )
        server(Network(nodes, config, clock, hangs), context)
        folder = tmp_path / "runs" / "run"
        copies = {lab: tmp_path / lab / "run" / f"{lab}.fedsc.h5ad" for lab in "AB"}
        return folder, {lab: anndata.read_h5ad(p) for lab, p in copies.items() if p.exists()}

    return lead


def last_round(until):
    """Let lab B work on its message of the last round for so long."""
    return lambda lab, message: until if (lab, message.metadata.group_id) == ("B", "2") else 0.0


def test_a_lab_that_is_busy_beyond_the_last_round_gets_its_clusters_and_its_file(run, clock):
    folder, copies = run(last_round(500.0))
    assert clock.now >= 500
    log = (folder / "run.log").read_text()
    assert "going on without lab B" in log
    assert "waiting for B: still busy" in log
    assert "lab B has its results in a copy of its own file" in log
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {(row["round"], row["lab"]) for row in rows if "failed" in row} == {(2, "B")}

    assert json.loads((folder / "scores.json").read_text())["without_files"] == {}
    model = load_model(folder)
    clusters = load_clusters(folder, model)
    assert clusters.sizes.sum() == 60  # the pool's clusters are of A alone
    for lab, n_cells in (("A", 60), ("B", 36)):
        copy = copies[lab]
        assert copy.obsm["X_fedsc"].shape == (n_cells, model.dimensions)
        np.testing.assert_array_equal(
            copy.obs["fedsc_cluster"].cat.codes, clusters.assign(copy.obsm["X_fedsc"])
        )
    assert copies["A"].uns["fedsc"]["model"] == copies["B"].uns["fedsc"]["model"]


def test_a_lab_that_stays_busy_holds_the_end_no_longer_than_a_round(run, clock):
    folder, copies = run(last_round(1e6))
    assert list(copies) == ["A"]
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores["without_files"]) == ["B"]
    assert "busy" in scores["without_files"]["B"]
    assert clock.now < 5 * HANG
