"""Nothing of the analysis depends on which lab holds a cell."""

from client_app.state import load_embedding
from fedsc.clusters import load_clusters
from fedsc.model import load_model
from partitioning.simulation import simulated_labs


def clusters_of(left, config):
    """Give every cell's graph cluster, by its name, from what a simulation's labs keep."""
    labs = simulated_labs(config.data, config.split, config.run.seed).labs
    clusters = load_clusters(left.folder, load_model(left.folder))
    found = {}
    for lab, cells in labs.items():
        x = load_embedding(left.folder / "labs" / lab).of(cells).x
        found |= dict(zip(cells.cells, clusters.assign(x).tolist(), strict=True))
    return found


def test_a_cell_has_the_same_cluster_however_cells_lie_in_labs(tiny_run, lead, real_data, tmp_path):
    """One lab with all cells, five with any cells, and one type a lab: the whole run each time."""
    one_type = {"partition": "subtypes", "subtypes_per_lab": 1, "cover": "all"}
    splits = {
        "one": {"partition": "iid", "labs": 1},
        "any": {"partition": "iid", "labs": 5},
        "types": {**one_type, "labs": 4},
    }
    found = {}
    for name, split in splits.items():
        config = tiny_run.replace(
            dataset=str(real_data("pancreas_xin_674_lognorm")),
            method="fedpca",
            n_genes=2000,
            output=str(tmp_path),
            run_name=name,
            **split,
        )
        found[name] = clusters_of(lead(config), config)
    assert len(found["one"]) == 674
    assert 3 <= len(set(found["one"].values())) <= 30
    assert found["any"] == found["one"]
    assert found["types"] == found["one"]
