from pathlib import Path

import numpy as np
import pytest

from client_app.labs import Lab, hosted_labs
from fedsc.errors import ConfigError


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 6])
def test_nodes_share_all_labs_without_overlap(tiny, nodes):
    hosted = [
        [lab.name for lab in hosted_labs({"partition-id": i, "num-partitions": nodes}, tiny)]
        for i in range(nodes)
    ]
    every = sorted(name for names in hosted for name in names)
    assert every == ["lab-0", "lab-1", "lab-2", "lab-3"]
    assert hosted[0] == [f"lab-{i}" for i in range(0, 4, nodes)]


def test_a_node_with_a_file_is_one_lab(tiny, tiny_set, tmp_path):
    node = {"lab": "A", "data": str(tiny_set), "state": str(tmp_path / "state")}
    (lab,) = hosted_labs(node, tiny)
    assert (lab.name, len(lab.expression.cells), lab.siblings) == ("A", 96, 0)
    # It takes the run's name from the server, never a path.
    assert lab.folder("run-1", "/etc") == tmp_path / "state" / "run-1"


@pytest.mark.parametrize("run", ["../x", "a/b", "", "..", ".hidden", "x" * 101])
def test_a_run_name_cannot_lead_out_of_the_folder(tiny, tiny_set, run):
    (lab,) = hosted_labs({"lab": "A", "data": str(tiny_set)}, tiny)
    with pytest.raises(ConfigError, match="run name"):
        lab.folder(run, "")


@pytest.mark.parametrize("node", [{}, {"lab": "a/b", "data": "x"}, {"data": "x"}])
def test_a_node_without_usable_config_is_told_what_to_give(tiny, node):
    with pytest.raises(ConfigError, match=r"node-config|node config"):
        hosted_labs(node, tiny)


def test_prepared_cells_are_kept_until_the_preprocessing_changes(tiny):
    from fedsc.federated.preprocessing import fit_preprocessing

    (lab, *_) = hosted_labs({"partition-id": 0, "num-partitions": 1}, tiny)
    lab = Lab(lab.name, lab.expression, siblings=1, state=Path())
    one = fit_preprocessing([lab.expression], tiny)
    first = lab.cells(one, tiny)
    assert lab.cells(one, tiny) is first
    other = fit_preprocessing([lab.expression], tiny.model_copy(update={"n_genes": 7}))
    assert lab.cells(other, tiny).n_genes == 7
    vocabulary = np.array(one.vocabulary)
    assert lab.aligned(vocabulary) is lab.aligned(vocabulary.copy())
