"""Labs of different techniques, brought together by Harmony in whole runs of real labs."""

import html
import shutil
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from flwr.app import Message, RecordDict
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from client_app import app as client
from client_app import labs
from client_app.state import load_integration
from fedsc import tensors
from fedsc.cli import app as cli
from fedsc.clusters import load_clusters
from fedsc.errors import ConfigError, DataError
from fedsc.federated.harmony import HARMONY
from fedsc.federated.harmony_lab import CORRECT
from fedsc.model import load_model
from fedsc.report.run import report_of
from fedsc.results import load
from protocol.ask import CLUSTERS, INTEGRATION
from protocol.replies import pack_error

N_TYPES, DIMENSIONS = 3, 50


def technique(name, seed, cells=120, genes=80, shift=0.8, of=None):
    """Make counts of three types, whose genes a technique (that of seed ``of``) sees unequally."""
    rates = np.random.default_rng(0).gamma(1.0, 2.0, size=genes) * np.ones((N_TYPES, 1))
    for kind in range(N_TYPES):
        rates[kind, kind * 12 : (kind + 1) * 12] *= 6
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, N_TYPES, cells)
    seen = np.exp(np.random.default_rng((1, of or seed)).normal(size=genes) * shift)
    counts = rng.poisson(rates[kinds] * seen)
    return anndata.AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(
            {"kind": pd.Categorical([f"type{kind}" for kind in kinds]), "technique": name},
            index=[f"{name}-{i}" for i in range(cells)],
        ),
        var=pd.DataFrame(index=[f"TP{i}" for i in range(genes)]),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("techniques")
    for i, name in enumerate("ABC"):
        technique(name, seed=i + 1).write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(scope="module")
def config(tiny_run, files):
    return tiny_run.replace(method="fedpca", label_key="kind", n_genes=60, wait_for_labs=3)


def nodes_of(files, state):
    return [
        {"lab": name, "data": str(files / f"{name}.h5ad"), "state": str(state / name)}
        for name in "ABC"
    ]


def copy_of(state, name):
    return anndata.read_h5ad(state / name / "run" / f"{name}.fedsc.h5ad")


@pytest.fixture(scope="module")
def integrated(config, files, lead, tmp_path_factory):
    """Lead an integrated run in which every message meets a new process and is sent twice.

    Flower starts a process for every message, so a lab has nothing but its disk; and where a
    reply is lost, it is asked again.
    """
    state = tmp_path_factory.mktemp("integrated")
    twice = Counter()

    def app(message, context):
        labs._real_lab.cache_clear()
        reply = client(message, context)
        if message.content.config_records.get("question", {}).get("subject") == INTEGRATION:
            labs._real_lab.cache_clear()
            again = client(message, context)
            (lab,) = [name for name in reply.content if name.startswith("sums:")]
            twice[str(again.content[lab]) == str(reply.content[lab])] += 1
        return reply

    left = lead(
        config.replace(integrate="harmony", output=str(state)), nodes_of(files, state), app=app
    )
    return left, state, twice


def test_labs_come_together(integrated, config, files, lead, tmp_path):
    left, state, _ = integrated
    apart = lead(config.replace(output=str(tmp_path)), nodes_of(files, tmp_path))
    before, after = apart.scores, left.scores
    assert before["integration"] == {"asked": "none", "done": False}
    assert before["graph"]["ari"] < 0.7  # every technique has clusters of its own
    assert after["graph"]["ari"] > 0.9
    assert after["kmeans"]["ari"] > 0.9
    assert after["graph"]["labs"] == [3] * after["graph"]["clusters"]
    about = after["integration"]
    assert about["done"] is True
    assert about["mixing_before"] < 0.5 < 0.8 < about["mixing_after"]
    # What is scored is what lies in the copies.
    pool = pd.concat([copy_of(state, name).obs for name in "ABC"])
    assert adjusted_rand_score(pool["kind"], pool["fedsc_cluster"]) == pytest.approx(
        after["graph"]["ari"]
    )
    assert {copy_of(state, name).uns["fedsc"]["integrated"] for name in "ABC"} == {"harmony"}


def test_a_question_asked_again_of_a_lab_that_was_restarted_has_the_same_answer(integrated):
    left, _, twice = integrated
    assert twice[False] == 0
    assert twice[True] == 3 * left.scores["questions"]["integration"]


@pytest.mark.slow
def test_an_undisturbed_run_has_the_same_bits(integrated, config, files, lead, tmp_path):
    left, state, _ = integrated
    other = lead(
        config.replace(integrate="harmony", output=str(tmp_path)), nodes_of(files, tmp_path)
    )
    for name in ("clusters.safetensors", HARMONY, "markers.csv"):
        assert (left.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    for name in "ABC":
        one, two = copy_of(state, name), copy_of(tmp_path, name)
        assert one.obsm["X_fedsc"].tobytes() == two.obsm["X_fedsc"].tobytes()


def test_questions_are_few_and_counted(integrated):
    questions = integrated[0].scores["questions"]
    assert set(questions) == {"expression", "cells", "integration", "graph", "kmeans", "clusters"}
    assert questions["integration"] <= 60 + 25  # and the start, and two about mixing
    assert questions["graph"] <= 20
    assert questions["clusters"] == 1


def embed(file, folder, output, *more):
    arguments = ("embed", file, "--model", folder, "-o", output, *more)
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def embedded(file, folder, output, *more):
    done = embed(file, folder, output, *more)
    assert done.exit_code == 0, (done.output, done.exception)
    return anndata.read_h5ad(output)


def test_the_labs_own_file_is_embedded_as_the_lab_did(integrated, files, tmp_path):
    """As a new lab it answers what the lab was asked, and so has its bits; with its state too."""
    left, state, _ = integrated
    own = copy_of(state, "B")
    kept = state / "B" / "run" / "integration.safetensors"
    for i, more in enumerate([(), ("--integration", kept)]):
        found = embedded(files / "B.h5ad", left.folder, tmp_path / f"{i}.h5ad", *more)
        assert found.obsm["X_fedsc"].tobytes() == own.obsm["X_fedsc"].tobytes()
        assert list(found.obs["fedsc_cluster"]) == list(own.obs["fedsc_cluster"])
        assert list(found.obs["fedsc_type"]) == list(own.obs["fedsc_type"])


def test_a_file_of_a_new_technique_has_the_clusters_of_its_types(integrated, tmp_path):
    left, _, _ = integrated
    technique("D", seed=9).write_h5ad(tmp_path / "D.h5ad")
    found = embedded(tmp_path / "D.h5ad", left.folder, tmp_path / "out.h5ad")
    assert (found.obs["fedsc_type"].astype(str) == found.obs["kind"].astype(str)).mean() > 0.9
    assert "new lab" in found.uns["fedsc"]["integrated"]


@pytest.mark.parametrize("resolution", [(), ("--resolution", "0.5")])
def test_a_folder_without_its_integration_moves_no_cells_otherwise(
    integrated, files, tmp_path, resolution
):
    folder = Path(shutil.copytree(integrated[0].folder, tmp_path / "run"))
    (folder / HARMONY).unlink()
    done = embed(files / "B.h5ad", folder, tmp_path / "out.h5ad", *resolution)
    assert "integration.safetensors is missing" in str(done.exception)
    assert "copy the whole folder" in str(done.exception)
    assert not (tmp_path / "out.h5ad").exists()


def test_a_later_file_of_one_type_is_moved_as_its_lab_was(integrated, files, tmp_path):
    """Fitted by themselves such cells would lie elsewhere; the lab's own correction has them."""
    left, state, _ = integrated
    whole = anndata.read_h5ad(files / "A.h5ad")
    later = whole[whole.obs["kind"] == "type1"].copy()
    later.write_h5ad(tmp_path / "later.h5ad")
    kept = state / "A" / "run" / "integration.safetensors"
    found = embedded(
        tmp_path / "later.h5ad", left.folder, tmp_path / "out.h5ad", "--integration", kept
    )
    own = copy_of(state, "A")[later.obs_names]
    np.testing.assert_allclose(found.obsm["X_fedsc"], own.obsm["X_fedsc"], rtol=1e-4, atol=1e-4)
    assert set(found.obs["fedsc_type"]) == {"type1"}


@pytest.mark.parametrize(
    "spoil",
    [
        "rubbish",
        "none",
        pytest.param("another run", marks=pytest.mark.slow),
        "other state",
        "before",
        "the run's own",
    ],
)
def test_a_state_that_is_none_is_refused(integrated, config, files, lead, tmp_path, spoil):
    left, state, _ = integrated
    folder, kept = left.folder, tmp_path / "kept.safetensors"
    if spoil == "rubbish":
        kept.write_bytes(b"rubbish" * 9)
    elif spoil == "another run":
        folder = lead(config.replace(output=str(tmp_path)), nodes_of(files, tmp_path)).folder
    elif spoil == "other state":
        kept = state / "A" / "run" / "embedding.safetensors"
    elif spoil == "before":  # the run was resumed since
        arrays, about = tensors.read(state / "A" / "run" / "integration.safetensors")
        kept.write_bytes(tensors.pack(arrays | {"asked": arrays["asked"][::-1]}, about))
    elif spoil == "the run's own":
        kept = left.folder / HARMONY
    done = embed(files / "A.h5ad", folder, tmp_path / "o.h5ad", "--integration", kept)
    words = {
        "another run": "did not integrate",
        "before": "not of this run's integration",
        "the run's own": "the run's own or something else; each lab has one, labs/LAB/integration.",
    }
    words = words.get(spoil, "no state of a lab's integration")
    assert words in str(done.exception)
    assert not (tmp_path / "o.h5ad").exists()


@pytest.mark.slow
def test_batches_within_a_lab_by_columns_of_the_labs_own(config, files, lead, tmp_path):
    """One lab holds two techniques, and calls its columns otherwise."""
    both = anndata.concat([anndata.read_h5ad(files / f"{name}.h5ad") for name in "AB"])
    both.obs = both.obs.rename(columns={"technique": "chemistry"})
    both.write_h5ad(tmp_path / "AB.h5ad")
    nodes = [
        {"lab": "AB", "data": str(tmp_path / "AB.h5ad"), "state": str(tmp_path / "AB")}
        | {"batch-key": "chemistry"},
        nodes_of(files, tmp_path)[2],
    ]
    two = config.replace(integrate="harmony", output=str(tmp_path), wait_for_labs=2)
    left = lead(two, nodes)
    assert left.scores["graph"]["ari"] > 0.9
    state = load_integration(tmp_path / "AB" / "run")
    assert state.penalty.shape[0] == 2
    # Three batches, as three labs: the same embedding but for rounding.
    alone = lead(
        config.replace(integrate="harmony", output=str(tmp_path), run_name="alone"),
        nodes_of(files, tmp_path),
    )
    own = anndata.read_h5ad(tmp_path / "AB" / "run" / "AB.fedsc.h5ad").obsm["X_fedsc"]
    parts = [
        anndata.read_h5ad(tmp_path / name / "alone" / f"{name}.fedsc.h5ad").obsm["X_fedsc"]
        for name in "AB"
    ]
    np.testing.assert_allclose(own, np.concatenate(parts), rtol=1e-2, atol=1e-2)
    assert alone.scores["graph"]["ari"] == pytest.approx(left.scores["graph"]["ari"], abs=0.05)
    # A later file says by a column of which batch its cells are.
    kept = tmp_path / "AB" / "run" / "integration.safetensors"
    done = embed(files / "A.h5ad", left.folder, tmp_path / "o.h5ad", "--integration", kept)
    assert "the lab has 2 batches (A, B); say with --batch-key" in str(done.exception)
    later = both[both.obs["kind"] == "type1"][::-1].copy()
    later.write_h5ad(tmp_path / "later.h5ad")
    more = ("--integration", kept, "--batch-key", "chemistry")
    found = embedded(tmp_path / "later.h5ad", left.folder, tmp_path / "o.h5ad", *more)
    lab = anndata.read_h5ad(tmp_path / "AB" / "run" / "AB.fedsc.h5ad")[later.obs_names]
    np.testing.assert_allclose(found.obsm["X_fedsc"], lab.obsm["X_fedsc"], rtol=1e-4, atol=1e-4)
    later.obs["chemistry"] = "C"
    later.write_h5ad(tmp_path / "later.h5ad")
    done = embed(tmp_path / "later.h5ad", left.folder, tmp_path / "p.h5ad", *more)
    assert "the lab had no batch 'C'; it had A, B" in str(done.exception)


def test_an_integration_that_may_not_help_is_warned_of_where_people_read(config, lead, tmp_path):
    for name, cells in (("A", 120), ("B", 110)):  # of one technique: they are mixed already
        technique(name, seed=cells, cells=cells, of=6).write_h5ad(tmp_path / f"{name}.h5ad")
    left = lead(
        config.replace(integrate="harmony", output=str(tmp_path), wait_for_labs=2, files=True),
        nodes_of(tmp_path, tmp_path)[:2],
    )
    (doubt,) = [w for w in left.scores["warnings"] if "integrate" in w]
    assert "labs were integrated (integrate = harmony), though it may not help" in doubt
    assert "mixed already" in doubt
    assert doubt in copy_of(tmp_path, "A").uns["fedsc"]["warnings"]
    report = " ".join(html.unescape((left.folder / "report.html").read_text()).split())
    assert report.count(doubt) == 1
    assert "Asked for: integrate = harmony. Labs were brought together." in report
    about = left.scores["integration"]
    figures = f"{about['mixing_before']:.2f} before and {about['mixing_after']:.2f} after"
    assert figures in report


@pytest.mark.slow
def test_auto_says_what_it_did_and_why(config, files, lead, tmp_path, integrated):
    done = lead(
        config.replace(integrate="auto", output=str(tmp_path)), nodes_of(files, tmp_path)
    ).scores["integration"]
    assert done["done"] is True
    assert done["reason"].startswith("mixing of labs 0.")
    # Two labs of one technique are mixed already.
    for name, cells in (("A", 120), ("B", 110)):
        technique(name, seed=cells, cells=cells, of=6).write_h5ad(tmp_path / f"{name}.h5ad")
    left = lead(
        config.replace(integrate="auto", output=str(tmp_path), run_name="same", wait_for_labs=2),
        nodes_of(tmp_path, tmp_path)[:2],
    )
    declined = left.scores["integration"]
    assert declined["done"] is False
    assert "mixed already" in declined["reason"]
    assert not (left.folder / HARMONY).exists()
    report = report_of(load(left.folder))
    assert "Asked for: integrate = auto. Labs were left as they were." in report
    assert "mixed already" in report
    assert not [warning for warning in left.scores["warnings"] if "integrate" in warning]


@pytest.mark.slow
def test_a_lab_that_was_left_out_does_not_end_with_the_correction_of_another_integration(
    config, files, lead, tmp_path, monkeypatch
):
    """A takes all steps, and is lost after them; B and C take as many once more, without it."""
    monkeypatch.setattr("fedsc.federated.harmony.ROUNDS", 1)
    steps = Counter()

    def app(message, context):
        question = message.content.config_records.get("question", {})
        steps[context.node_config["lab"]] += question.get("name") == CORRECT
        if context.node_config["lab"] == "A" and question.get("subject") == CLUSTERS:
            error = pack_error(DataError("lost"))
            return Message(RecordDict({"error:A": error}), reply_to=message)
        return client(message, context)

    left = lead(
        config.replace(integrate="harmony", output=str(tmp_path)),
        nodes_of(files, tmp_path),
        app=app,
    )
    assert steps["B"] == 2 * steps["A"]  # or this would show nothing
    assert left.scores["integration"]["rounds"] == steps["A"]
    assert "lab A could not write its results: the lab was not there for all steps" in left.log
    written = {name: bool(list((tmp_path / name / "run").glob("*.h5ad"))) for name in "ABC"}
    assert written == {"A": False, "B": True, "C": True}


@pytest.mark.slow
def test_a_run_that_goes_on_without_integration_forgets_it(config, files, lead, tmp_path):
    first = lead(
        config.replace(integrate="harmony", output=str(tmp_path)), nodes_of(files, tmp_path)
    )
    assert (first.folder / HARMONY).exists()
    again = lead(config.replace(resume=str(first.folder)), nodes_of(files, tmp_path))
    assert not (again.folder / HARMONY).exists()
    own = copy_of(tmp_path, "A")
    found = embedded(files / "A.h5ad", again.folder, tmp_path / "out.h5ad")
    assert found.obsm["X_fedsc"].tobytes() == own.obsm["X_fedsc"].tobytes()


@pytest.mark.parametrize("integrate", ["harmony", "auto"])
@pytest.mark.parametrize("partition", ["subtypes", "dirichlet", "iid"])
def test_labs_that_differ_by_type_or_not_at_all_are_not_integrated(
    tiny, change, lead, partition, integrate
):
    config = change(tiny, partition=partition, integrate=integrate, min_cells=1)
    with pytest.raises(ConfigError, match=f"partition = '{partition}': labs .*use partition"):
        lead(config)


ONE_BATCH = "all cells are of one lab and one batch, so there is nothing to bring together"


def test_harmony_over_one_batch_is_refused_before_any_work(config, files, lead, left_by, tmp_path):
    technique("A", seed=1).write_h5ad(tmp_path / "A.h5ad")
    one = config.replace(
        dataset=str(tmp_path), integrate="harmony", output=str(tmp_path / "runs"), wait_for_labs=0
    )
    with pytest.raises(ConfigError, match=f"integrate = 'harmony': {ONE_BATCH}.*batch-key"):
        lead(one)
    assert "phase: statistics" not in left_by(one).log
    # With a column of batches there is something to do; so there is with another lab.
    lead(one.replace(batch_key="kind", run_name="batches"))
    technique("B", seed=2).write_h5ad(tmp_path / "B.h5ad")
    assert lead(one.replace(run_name="two")).scores["integration"]["done"] is True


@pytest.mark.parametrize("integrate", ["harmony", "auto"])
def test_one_batch_of_a_real_lab_is_not_integrated_and_the_run_says_so(
    config, files, lead, tmp_path, integrate
):
    """Others could have joined, and the server is not told of a lab's batches before."""
    one = config.replace(integrate=integrate, output=str(tmp_path), wait_for_labs=1)
    left = lead(one, nodes_of(files, tmp_path)[:1])
    about = left.scores["integration"]
    assert about["done"] is False
    assert ONE_BATCH in about["reason"]
    told = [warning for warning in left.scores["warnings"] if ONE_BATCH in warning]
    assert len(told) == (integrate == "harmony")
    assert not (left.folder / HARMONY).exists()


@pytest.mark.slow
def test_labs_of_a_column_or_with_a_file_each_are(tiny, change, lead, files):
    by_column = change(
        tiny, partition="column", partition_key="donor", integrate="harmony", method="fedpca"
    )
    assert lead(by_column).scores["integration"]["done"] is True
    folder = change(
        tiny, dataset=str(files), label_key="kind", integrate="harmony", method="fedpca",
        run_name="files",
    )  # fmt: skip
    left = lead(folder)
    assert left.scores["integration"]["done"] is True
    clusters = load_clusters(left.folder, load_model(left.folder))
    assert clusters.k == left.scores["graph"]["clusters"]
