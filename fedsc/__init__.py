"""Federated self-supervised clustering of single-cell RNA-seq data.

>>> import fedsc
>>> run = fedsc.run({"A": adata_a, "B": adata_b}, method="fedpca")
>>> run.scores, run.labs["A"].obs["fedsc_cluster"]
>>> fedsc.pl.map(run)

``run`` and ``load`` give a ``Run``; ``pp``, ``tl`` and ``pl`` are as in scanpy. Nothing heavy is
imported before one of them is used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "run": ("fedsc.api", "run"),
    "load": ("fedsc.results", "load"),
    "Run": ("fedsc.results", "Run"),
    "pp": ("fedsc.pp", ""),
    "tl": ("fedsc.tl", ""),
    "pl": ("fedsc.pl", ""),
}
__all__ = ["Run", "load", "pl", "pp", "run", "tl"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fedsc' has no attribute '{name}'")
    module, attribute = _WHERE[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
