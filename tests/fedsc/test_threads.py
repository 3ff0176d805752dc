import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import scipy.linalg
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from fedsc import placement
from fedsc.baselines import fitting
from fedsc.baselines.method import Settings
from fedsc.errors import DataError
from fedsc.federated import pca
from fedsc.threads import one_blas_thread, one_thread


def threads():
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with threadpool_limits(limits=2, user_api="blas"):
        yield


def test_torch_has_one_thread_within_and_as_many_as_before_after():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_products_have_one_thread_within_and_as_many_as_before_after(two_threads):
    with one_blas_thread():
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {2}
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_a_library_that_is_loaded_later_has_one_thread_too():
    code = """
from threadpoolctl import threadpool_info
from fedsc.threads import one_blas_thread
with one_blas_thread():
    import scipy.linalg
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    assert found and {library["num_threads"] for library in found} == {1}, found
"""
    without = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", code], check=True, env=without)


def test_the_limit_lasts_until_the_last_block_ends(two_threads):
    first, second = ExitStack(), ExitStack()
    first.enter_context(one_blas_thread())
    second.enter_context(one_blas_thread())  # of another thread of Python
    first.close()
    assert threads() == {1}
    second.close()
    assert threads() == {2}


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (fitting, "import_module", lambda: fitting.fit("pca", None, Settings(), 2)),
        (placement, "load_model", lambda: placement.place(Path("run"), None)),
    ],
)
def test_a_fit_and_cells_that_come_later_are_computed_with_one_thread(
    two_threads, monkeypatch, module, name, call
):
    seen = []

    def noting(_):
        seen.append(threads())
        raise DataError("that is all")

    monkeypatch.setattr(module, name, noting)
    with pytest.raises(DataError, match="that is all"):
        call()
    assert seen == [{1}]
    assert threads() == {2}


def test_server_and_labs_compute_with_one_thread(two_threads, tiny, change, lead, monkeypatch):
    seen = []

    def watched(of):
        def noting(*given, **named):
            seen.append(threads())
            return of(*given, **named)

        return noting

    monkeypatch.setattr(pca, "_batches", watched(pca._batches))  # at the labs
    monkeypatch.setattr(scipy.linalg, "eigh", watched(scipy.linalg.eigh))  # at the server
    lead(change(tiny, method="fedpca"))
    assert len(seen) > 2
    assert all(found == {1} for found in seen)
    assert threads() == {2}
