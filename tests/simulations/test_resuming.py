"""A run that has come to its end is resumed: what stays, what goes, what is refused."""

import shutil

import anndata
import pytest

import fedsc
import server_app.main
from fedsc.errors import ConfigError, RunError
from fedsc.report.run import report_of


@pytest.fixture
def finished(undisturbed, left_by, tiny, tmp_path):
    """Give a copy of the finished run, to be resumed."""
    shutil.copytree(undisturbed.folder, tmp_path / "runs" / "run")
    return left_by(tiny)


def test_resume_of_a_finished_run_changes_nothing(tiny, change, lead, finished, undisturbed):
    again = lead(change(tiny, resume=str(finished.folder)))
    assert again.folder == finished.folder
    assert again.model == undisturbed.model
    assert again.rows == undisturbed.rows


def test_resume_with_other_options_is_refused(tiny, change, lead, finished):
    with pytest.raises(ConfigError, match="seed was 0, not 3"):
        lead(change(tiny, resume=str(finished.folder), seed=3))
    with pytest.raises(ConfigError, match="rounds = 2: 3 rounds are done already"):
        lead(change(tiny, resume=str(finished.folder), rounds=2))
    assert fedsc.load(finished.folder).options["rounds"] == 3


def results_of(folder):
    """List what says how a run has ended."""
    names = ("scores.json", "report.html", "clusters.safetensors", "markers.csv", "labs/A.h5ad")
    return [name for name in names if (folder / name).exists()]


@pytest.mark.slow
def test_a_resume_that_comes_to_nothing_leaves_the_results(tiny, change, lead, finished):
    def dead(message, context):
        raise MemoryError

    with pytest.raises(RunError, match="no lab can take part"):
        lead(change(tiny, resume=str(finished.folder), rounds=4), app=dead)
    with pytest.raises(ConfigError, match="3 rounds are done already"):
        lead(change(tiny, resume=str(finished.folder), rounds=2))
    assert results_of(finished.folder) == ["scores.json", "clusters.safetensors", "markers.csv"]
    run = fedsc.load(finished.folder)
    assert (run.options["rounds"], run.record["config"]["rounds"]) == (3, 3)


@pytest.mark.parametrize("stops", ["train", "analyse", "finish"])
def test_a_finished_run_that_is_resumed_has_no_results_of_before(
    tiny, change, lead, finished, monkeypatch, stops
):
    """Wherever it is stopped: no old clusters lie beside the new model."""
    (finished.folder / "labs" / "A.h5ad").write_bytes(b"of before")
    (finished.folder / "report.html").write_text("of before")

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(server_app.main, stops, stop)
    more = {"resume": str(finished.folder), "rounds": 4}
    with pytest.raises(KeyboardInterrupt):
        lead(change(tiny, **more))
    run, new = fedsc.load(finished.folder), stops == "finish"
    assert run.options["rounds"] == 4
    anew = ["scores.json", "clusters.safetensors", "markers.csv"]
    assert results_of(finished.folder) == (anew if new else [])
    assert run.finished == new
    assert (run.clusters is not None) == new
    assert ("has not come to its end" in report_of(run)) != new


def test_a_run_is_not_resumed_on_other_cells(tiny, change, lead, finished, undisturbed, tmp_path):
    cells = anndata.read_h5ad(tiny.data.dataset)
    cells.write_h5ad(tmp_path / "moved.h5ad")
    cells.X.data = cells.X.data[::-1].copy()  # of the same names and types
    cells.write_h5ad(tmp_path / "other.h5ad")
    more = {"resume": str(finished.folder), "dataset": str(tmp_path / "other.h5ad")}
    with pytest.raises(ConfigError, match=r"other\.h5ad': lab-0, .* would have other cells"):
        lead(change(tiny, rounds=4, **more))
    assert results_of(finished.folder) == ["scores.json", "clusters.safetensors", "markers.csv"]
    moved = lead(change(tiny, **more | {"dataset": str(tmp_path / "moved.h5ad")}))
    assert moved.model == undisturbed.model


@pytest.mark.slow
def test_a_finished_run_may_get_more_rounds(tiny, change, lead, undisturbed):
    folder = lead(change(tiny, rounds=2)).folder
    more = {"rounds": 3, "wait_for_labs": 4, "min_updates": 2}
    assert lead(change(tiny, resume=str(folder), **more)).model == undisturbed.model


def test_fedpca_is_not_resumed_with_other_genes(unlabelled, change, lead):
    folder = lead(change(unlabelled, method="fedpca")).folder
    with pytest.raises(ConfigError, match="n-genes was 30, not 20"):
        lead(change(unlabelled, method="fedpca", n_genes=20, resume=str(folder)))
