"""What a lab says when it fails quotes nothing of its own: no cell, column, value or path."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from flwr.app import (
    ConfigRecord,
    Message,
    RecordDict,
)

from client_app import app as client
from client_app import labs
from protocol import records
from simulations.inprocess import InProcessGrid

NAME = "MUELLER"  # a patient's, which all that is A's own holds: cells, columns, values, folders


def describe(node, config):
    """Let a node describe its labs."""
    grid = InProcessGrid(client, [node], config)
    (number,) = grid.get_node_ids()
    content = RecordDict({"run": ConfigRecord({"name": "run", "folder": "/run"})})
    message = Message(content, dst_node_id=number, message_type=records.DESCRIBE)
    (reply,) = grid.send_and_receive([message])
    return reply


def errors_in(message):
    """Give the records that say why a node or a lab failed."""
    content = message.content.items()
    return [dict(record) for name, record in content if name.partition(":")[0] == "error"]


@pytest.fixture
def lab(tiny_set, tmp_path):
    """Give the config of a node that hosts a real lab, with that name all over it."""
    folder = tmp_path / NAME
    folder.mkdir()
    cells = anndata.read_h5ad(tiny_set)[:60].copy()
    cells.obs_names = [f"{NAME}-{i}" for i in range(60)]
    cells.obs["names"] = NAME
    cells.obs[f"of {NAME}"] = [f"{NAME} {i}" for i in range(60)]
    cells.write_h5ad(folder / f"{NAME}.h5ad")
    return {"lab": "A", "data": str(folder / f"{NAME}.h5ad"), "state": str(folder / "state")}


def changed(node, change):
    """Change the cells of a lab's file."""
    labs._real_lab.cache_clear()  # Flower starts a process for every message
    cells = anndata.read_h5ad(node["data"])
    change(cells)
    cells.write_h5ad(node["data"])


def in_obs(column, value):
    def write(cells):
        cells.obs[column] = value

    return lambda node: changed(node, write)


def not_a_number(cells):
    cells.X[3, 4] = np.nan


def repeated(cells):
    cells.obs_names = [f"{NAME}-0"] * cells.n_obs


def like_genes(cells):
    cells.obs_names = [f"ENSG{i:011d}{NAME}" for i in range(cells.n_obs)]


def rewrite(content):
    return lambda node: Path(node["data"]).write_bytes(content)


def beside(name, text):
    return lambda node: Path(node["data"]).with_name(name).write_text(text)


def table(node):
    node["data"] = str(Path(node["data"]).with_suffix(".csv"))
    Path(node["data"]).write_text(f"cell,g1,g2\n{NAME},1,{NAME}\n", encoding="utf-8")


REFUSED = {
    "NaN": lambda node: changed(node, not_a_number),
    "cells repeat": lambda node: changed(node, repeated),
    "transposed": lambda node: changed(node, like_genes),
    "labels of two lines": in_obs("cell_type", [f"{NAME}\nx"] * 60),
    "labels are numbers": in_obs("cell_type", np.linspace(0, 1, 60)),
    "no label column": lambda node: node.update({"label-key": f"{NAME} type"}),
    "no layer": lambda node: node.update({"layer": NAME}),
    "no symbols": lambda node: node.update({"symbols": NAME}),
    "no batch column": lambda node: node.update({"batch-key": f"{NAME} batch"}),
    "gaps in batches": lambda node: (
        in_obs(f"{NAME} batch", [*[NAME] * 59, None])(node),
        node.update({"batch-key": f"{NAME} batch"}),
    ),
    "no file": lambda node: Path(node["data"]).unlink(),
    "no HDF5": rewrite(b"rubbish"),
    "damaged": lambda node: rewrite(Path(node["data"]).read_bytes()[:3000])(node),
    "text in a table": table,
    "no key": lambda node: node.update(key=node["state"]),
    "no name": lambda node: node.update(lab=f"Dr. {NAME}"),
    "labs.toml": beside("labs.toml", f"[A]\n{NAME} = 1"),
    "no TOML": beside("labs.toml", f"{NAME}"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_lab_that_cannot_take_part_quotes_nothing_of_its_own(tiny, lab, fault, caplog):
    assert not errors_in(describe(lab, tiny))
    REFUSED[fault](lab)
    labs._real_lab.cache_clear()
    (told,) = errors_in(describe(lab, tiny))
    assert NAME not in str(told)
    assert told["final"] is True
    assert len(told["reason"].split()) > 5  # a sentence, not a mere kind of error
    assert NAME in caplog.text  # the lab's own log has all of it


def file_for_folder(place):
    def spoil(node):
        Path(node[place]).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(node[place])
        Path(node[place]).write_text("", encoding="utf-8")

    return spoil


def its_own_file(node):
    """Let the copy with the results take the place of the lab's file."""
    (Path(node["data"]).parent / f"{NAME}.fedsc.h5ad").hardlink_to(node["data"])
    node["output"] = str(Path(node["data"]).parent)
    labs._real_lab.cache_clear()


LOST = {
    "other labels": (records.ASK, in_obs("cell_type", [f"{NAME} {i}" for i in range(60)])),
    "other cells": (records.FINISH, lambda node: changed(node, repeat_first)),
    "no file": (records.EMBED, REFUSED["no file"]),
    "state cannot be written": (records.EMBED, file_for_folder("state")),
    "damaged embedding": (
        records.ASK,
        lambda node: [p.write_text("") for p in Path(node["state"]).rglob("embedding*")],
    ),
    "copy cannot be written": (records.FINISH, file_for_folder("output")),
    "copy is the file": (records.FINISH, its_own_file),
}


def repeat_first(cells):
    cells.obs_names = [f"{NAME} {i}" for i in range(cells.n_obs)]


@pytest.mark.parametrize(
    "fault",
    [
        "other labels",
        *(pytest.param(name, marks=pytest.mark.slow) for name in LOST if name != "other labels"),
    ],
)
def test_a_lab_that_fails_later_quotes_nothing_of_its_own(
    tiny_run, tiny_set, change, lead, lab, tmp_path, fault
):
    (message_type, spoil), told = LOST[fault], []
    lab["output"] = str(tmp_path / NAME / "output")

    def app(message, context):
        embedded = list(Path(lab["state"]).rglob("embedding*"))
        kind, own = message.metadata.message_type, context.node_config["lab"] == "A"
        # A question is spoiled once there is an embedding to ask about.
        if own and kind == message_type and not told and (kind != records.ASK or embedded):
            labs._real_lab.cache_clear()
            spoil(lab)
            context.node_config.update(lab)
        reply = client(message, context)
        told.extend(errors_in(reply))
        return reply

    other = {"lab": "B", "data": str(tiny_set), "state": str(tmp_path / "B")}
    config = change(tiny_run, output=str(tmp_path), method="fedpca", wait_for_labs=2)
    lead(config, [lab, other], app=app)
    assert told
    assert NAME not in str(told)


def test_a_simulated_lab_tells_all_since_the_server_may_read_its_cells(tiny, change, lab):
    changed(lab, not_a_number)
    config = change(tiny, dataset=lab["data"])
    (told,) = errors_in(describe({"partition-id": 0, "num-partitions": 1}, config))
    assert f"cell '{NAME}-3'" in told["reason"]
