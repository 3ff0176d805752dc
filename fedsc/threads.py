"""One thread for sums of floats: their last bits would tell how many cores a machine has."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_VARIABLE = "OPENBLAS_NUM_THREADS"
_lock = Lock()
_limits = ExitStack()
_entered = 0  # blocks of all threads of Python: the limit is the process's


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread.

    It has to be said each time, since a parallel function of numba (the neighbour search before
    Leiden) sets the number for the whole process.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let products and decompositions of NumPy and SciPy use one thread.

    Within another one it does nothing: to look for the libraries takes milliseconds. The limit
    holds for the process until the last block ends, whichever thread of Python it is in.
    """
    global _entered
    with _lock:
        if not _entered:
            _limit()
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                _limits.close()


def _limit() -> None:
    from threadpoolctl import threadpool_limits

    _limits.callback(_set_variable, os.environ.get(_VARIABLE))
    _set_variable("1")  # for libraries that are loaded later, as SciPy's own is
    _limits.enter_context(threadpool_limits(limits=1, user_api="blas"))


def _set_variable(value: str | None) -> None:
    if value is None:
        del os.environ[_VARIABLE]
    else:
        os.environ[_VARIABLE] = value
