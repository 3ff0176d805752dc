"""One thread for sums of floats: their last bits would tell how many cores a machine has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "OPENBLAS_NUM_THREADS"
_limited = False


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

    Within another one it does nothing: to look for the libraries takes milliseconds.
    """
    from threadpoolctl import threadpool_limits

    global _limited
    if _limited:
        yield
        return
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"  # for libraries that are loaded later, as SciPy's own is
    _limited = True
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _limited = False
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
